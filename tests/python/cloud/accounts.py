"""Accounts: each access key belongs to an account, and sees only that account's resources."""

from moto.core.responses import BaseResponse
from moto.iam import models as iam
from moto.sts.models import STSBackend

from calls import access_key_of, account_of


def install() -> None:
    """Makes moto choose the account by the access key, and GetCallerIdentity return it."""

    def identity(backend: STSBackend, access_key: str, _region: str) -> tuple[str, str, str]:
        return (
            f"AIDA{access_key.upper()}",
            f"arn:aws:iam::{backend.account_id}:user/{access_key}",
            backend.account_id,
        )

    BaseResponse.get_access_key = lambda response: access_key_of(response.headers)
    iam.get_account_id_from = account_of
    STSBackend.get_caller_identity = identity
