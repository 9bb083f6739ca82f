"""The SMS sandbox for new accounts, which moto lacks."""

from moto.core.responses import ActionResult
from moto.sns.responses import SNSResponse

from settings import Settings


def install(settings: Settings) -> None:
    """Patches moto. Must be called before moto's first call."""

    def status(_response: SNSResponse) -> ActionResult:
        return ActionResult({"IsInSandbox": settings.sms_sandbox is not None})

    def numbers(_response: SNSResponse) -> ActionResult:
        verified = settings.sms_sandbox or []
        return ActionResult(
            {"PhoneNumbers": [{"PhoneNumber": one, "Status": "Verified"} for one in verified]}
        )

    SNSResponse.get_sms_sandbox_account_status = status
    SNSResponse.list_sms_sandbox_phone_numbers = numbers
