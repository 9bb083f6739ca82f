//! Checks that text messages about alarms can arrive.

use anyhow::ensure;
use aws_sdk_sns::types::SmsSandboxPhoneNumberVerificationStatus as Status;

use crate::aws::{Aws, Explain};

/// New accounts are in a sandbox, in which AWS sends text messages only to verified numbers, and drops all others silently.
///
/// # Errors
/// The account is in the sandbox, and some of these numbers are not verified.
pub(crate) async fn ensure_deliverable(aws: &Aws, numbers: &[&String]) -> anyhow::Result<()> {
    if numbers.is_empty() {
        return Ok(());
    }
    let status = aws.sns.get_sms_sandbox_account_status().send().await;
    if !status.explain("sns:GetSMSSandboxAccountStatus", aws)?.is_in_sandbox() {
        return Ok(());
    }
    let listed = aws.sns.list_sms_sandbox_phone_numbers().into_paginator().items().send();
    let listed = listed.collect::<Result<Vec<_>, _>>().await;
    let listed = listed.explain("sns:ListSMSSandboxPhoneNumbers", aws)?;
    let verified: Vec<_> = listed
        .iter()
        .filter(|entry| entry.status() == Some(&Status::Verified))
        .filter_map(|entry| entry.phone_number())
        .collect();
    let missing: Vec<_> =
        numbers.iter().filter(|number| !verified.contains(&number.as_str())).map(|n| n.as_str()).collect();
    ensure!(
        missing.is_empty(),
        "the account is in AWS's sandbox for text messages in {}, where only verified numbers get any, and these are not \
         verified: {}; verify them in the console (Amazon SNS, text messaging), or remove them from ONCALL.json",
        aws.region,
        missing.join(", ")
    );
    Ok(())
}
