//! The user's AWS configuration, as all programs here read it.

use std::error::Error;
use std::time::Duration;

use anyhow::{anyhow, bail};
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_runtime::env_config::section::EnvConfigSections;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_types::os_shim_internal::{Env, Fs};

/// How long the user's program for credentials (credential_process) may take: it may ask another service, or a person.
pub const CREDENTIALS_TIME: Duration = Duration::from_secs(60);
/// The error of a user without credentials.
pub const NO_CREDENTIALS: &str = "there are no credentials for AWS; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or \
                                  log in with: aws sso login, or aws login";
/// How many profiles may follow each other by source_profile.
const MAX_CHAIN: usize = 10;

/// A client that uses the proxies of the environment (HTTPS_PROXY, NO_PROXY), as every AWS tool does.
pub fn http_client() -> SharedHttpClient {
    Builder::new().build_with_connector_fn(|settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        if let Some(settings) = settings {
            connector = connector.connector_settings(settings.clone());
        }
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.tls_provider(tls()).build()
    })
}

/// TLS as all clients have it.
pub fn tls() -> Provider {
    // Not the SDK's default, which is built from C.
    Provider::Rustls(CryptoMode::Ring)
}

/// The profiles of the AWS configuration.
///
/// # Errors
/// They cannot be read.
pub async fn profiles() -> anyhow::Result<EnvConfigSections> {
    let loaded = aws_config::profile::load(&Fs::real(), &Env::real(), &EnvConfigFiles::default(), None).await;
    loaded.map_err(|error| {
        anyhow!("{}", causes(&error))
            .context("reading the AWS configuration (~/.aws/config, AWS_CONFIG_FILE)")
    })
}

/// Refuses profiles with mfa_serial. The SDK ignores it: it would request the role without a code, and be denied without a clear
/// reason.
///
/// # Errors
/// The profile needs a code, or the configuration cannot be read.
pub async fn refuse_mfa() -> anyhow::Result<()> {
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_some_and(|id| !id.is_empty()) {
        // Credentials in the environment take precedence over any profile.
        return Ok(());
    }
    let sections = profiles().await?;
    if let Some(profile) = needs_mfa(&sections) {
        let selected = sections.selected_profile();
        bail!(
            "the profile {profile} needs a code of an MFA device (mfa_serial), which this command cannot ask for; let the AWS CLI \
             ask, and take what it gets: eval \"$(aws configure export-credentials --profile {selected} --format env)\""
        );
    }
    Ok(())
}

/// The first profile that needs MFA, along the chain from the selected one by source_profile.
fn needs_mfa(sections: &EnvConfigSections) -> Option<String> {
    let mut name = sections.selected_profile().to_owned();
    for _ in 0..MAX_CHAIN {
        let profile = sections.get_profile(&name)?;
        // Only requests for a role take a code.
        if profile.get("role_arn").is_some() && profile.get("mfa_serial").is_some() {
            return Some(name);
        }
        name = profile.get("source_profile")?.to_owned();
    }
    None
}

/// An error with its causes, in one line.
pub fn causes(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    // The SDK lists the places where it has searched, one a line.
    message.lines().map(str::trim).collect::<Vec<_>>().join("; ").replace(":; ", ": ")
}
