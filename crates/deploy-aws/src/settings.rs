//! The user's settings of a stack, remembered in `stack.toml`.

mod network;
mod on_call;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::stack_id::StackId;
use deploy::request::StackOptions;
pub(crate) use on_call::on_call;

/// The default name of a stack.
pub(crate) const STACK: &str = "provisioned-classifier";
/// The default region.
pub(crate) const REGION: &str = "us-west-2";
/// The default instance type: of this machine's architecture, for which the programs are built.
const INSTANCE_TYPE: &str = if cfg!(target_arch = "aarch64") { "c7g.4xlarge" } else { "c5.4xlarge" };
const TIME_TO_LIVE: Duration = Duration::from_secs(4 * 3600);
/// Less would terminate machines before they are ready.
const MIN_TIME_TO_LIVE: Duration = Duration::from_secs(10 * 60);
/// No job takes longer.
const MAX_TIME_TO_LIVE: Duration = Duration::from_secs(7 * 24 * 3600);
/// The user of Ubuntu's images.
const SSH_USER: &str = "ubuntu";
/// The size of root volumes.
const DISK_GIB: u32 = 30;

/// The settings of a stack. They are remembered, so that a second `up` needs no flags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) stack: String,
    pub(crate) region: String,
    /// Machines that classify, including the initializer.
    pub(crate) cluster_size: usize,
    /// In order of preference.
    pub(crate) instance_types: Vec<String>,
    /// By default, the newest of Ubuntu.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    /// By default, those of the default VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subnet: Option<String>,
    /// The networks from which SSH is allowed; by default, only this machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ssh_from: Option<BTreeSet<String>>,
    pub(crate) ssh_user: String,
    /// Whether workers may be spot instances.
    pub(crate) spot: bool,
    pub(crate) time_to_live_minutes: u64,
    pub(crate) disk_gib: u32,
    /// The number of the stack's account, since the last `up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account: Option<String>,
    /// Whether something of the stack may exist: from before the first call that creates something until a `down` that found
    /// nothing left.
    #[serde(default)]
    pub(crate) may_be_up: bool,
}

impl Settings {
    /// From the options, and where these say nothing, from `before`.
    ///
    /// # Errors
    /// Values that are out of range, no cluster size, or a stack of this folder that may be up elsewhere.
    pub(crate) fn new(
        args: &StackOptions,
        cluster_size: Option<u16>,
        before: Option<Self>,
        profile_region: Option<&str>,
    ) -> anyhow::Result<Self> {
        let cluster_size = cluster_size.map(usize::from).or(before.as_ref().map(|b| b.cluster_size));
        let cluster_size = cluster_size.context(
            "no cluster size is set; give it once, and it is remembered: cargo xtask up CLUSTER_SIZE=2",
        )?;
        let stack = stack(args.name.as_deref(), before.as_ref())?;
        let region = region(&args.regions, before.as_ref(), profile_region)?;
        if let Some(before) = before.as_ref().filter(|before| before.may_be_up) {
            ensure!(
                (&before.stack, &before.region) == (&stack, &region),
                "this folder is for the stack {} in {}, and not for {stack} in {region}; take it down first (cargo xtask \
                 down), or use another folder for the other one (--inventory FILE)",
                before.stack,
                before.region
            );
        }
        let before = before.unwrap_or_else(|| Self::default_for(&stack, &region, cluster_size));
        ensure!(
            (1..=1000).contains(&cluster_size)
                && before.time_to_live_minutes * 60 <= MAX_TIME_TO_LIVE.as_secs(),
            "the remembered settings of the stack are invalid (stack.toml); remove that file, and give the options again"
        );
        Ok(Self {
            stack,
            region,
            cluster_size,
            instance_types: instance_types(&args.instance_types, before.instance_types)?,
            image: args.image.clone().or(before.image),
            subnet: args.subnet.clone().or(before.subnet),
            ssh_from: match args.ssh_from.as_slice() {
                [] => before.ssh_from,
                networks => {
                    Some(networks.iter().map(|text| network::parse(text)).collect::<anyhow::Result<_>>()?)
                }
            },
            ssh_user: args.ssh_user.clone().unwrap_or(before.ssh_user),
            spot: args.spot.unwrap_or(before.spot),
            time_to_live_minutes: match args.time_to_live {
                Some(time_to_live) => minutes(time_to_live)?,
                None => before.time_to_live_minutes,
            },
            disk_gib: args.disk_gib.unwrap_or(before.disk_gib),
            account: before.account,
            may_be_up: before.may_be_up,
        })
    }

    fn default_for(stack: &str, region: &str, cluster_size: usize) -> Self {
        Self {
            stack: stack.to_owned(),
            region: region.to_owned(),
            cluster_size,
            instance_types: vec![INSTANCE_TYPE.to_owned()],
            image: None,
            subnet: None,
            ssh_from: None,
            ssh_user: SSH_USER.to_owned(),
            spot: false,
            time_to_live_minutes: TIME_TO_LIVE.as_secs() / 60,
            disk_gib: DISK_GIB,
            account: None,
            may_be_up: false,
        }
    }

    /// Identifies the stack; `None` before its account is known.
    pub(crate) fn id(&self) -> Option<StackId> {
        let account = self.account.clone()?;
        Some(StackId { name: self.stack.clone(), region: self.region.clone(), account })
    }

    /// # Errors
    /// The stack may be up in another account.
    pub(crate) fn ensure_account(&self, account: &str) -> anyhow::Result<()> {
        self.id().filter(|_| self.may_be_up).map_or(Ok(()), |id| id.ensure_account(account))
    }

    /// The file of the settings, beside the inventory.
    pub(crate) fn path(inventory: &Path) -> PathBuf {
        inventory.with_file_name("stack.toml")
    }

    /// Reads the remembered settings; `None` if the file does not exist.
    ///
    /// # Errors
    /// The file cannot be read or parsed.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Option<Self>> {
        let Some(text) = files::read_if_there(path)? else { return Ok(None) };
        let context = || format!("parsing the settings of the stack in {}", path.display());
        toml::from_slice(&text).map(Some).with_context(context)
    }

    /// # Errors
    /// The file cannot be written.
    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let text = toml::to_string(self).context("encoding the settings of the stack")?;
        let text = format!("# What cargo xtask up was asked for; the next one needs no flags.\n\n{text}");
        files::replace_file(path, text.as_bytes())
    }
}

/// The name of the stack: the requested one, or else the remembered one, or else the default.
///
/// # Errors
/// The name has other characters than AWS allows.
pub(crate) fn stack(requested: Option<&str>, before: Option<&Settings>) -> anyhow::Result<String> {
    let stack = requested.map(str::to_owned).or(before.map(|before| before.stack.clone()));
    let stack = stack.unwrap_or_else(|| STACK.to_owned());
    let is_usual = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    ensure!(
        (1..=64).contains(&stack.len()) && stack.chars().all(is_usual) && !stack.starts_with('-'),
        "{stack:?} is not a valid name for a stack; use up to 64 letters, digits, - and _"
    );
    Ok(stack)
}

/// The region of the stack. The first that is set of: the requested one, that of a stack that may be up, that of the
/// environment or the profile, the remembered one, the default.
///
/// # Errors
/// Several regions, or an invalid name.
pub(crate) fn region(
    requested: &[String],
    before: Option<&Settings>,
    profile_region: Option<&str>,
) -> anyhow::Result<String> {
    if let [_, _, ..] = requested {
        bail!("a stack is in one region, not in {}; name one of them", requested.join(" and "));
    }
    let (up, down) = match before {
        Some(before) if before.may_be_up => (Some(before.region.clone()), None),
        Some(before) => (None, Some(before.region.clone())),
        None => (None, None),
    };
    let variable = ["AWS_REGION", "AWS_DEFAULT_REGION"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|region| !region.is_empty()));
    let now = variable.or(profile_region.map(str::to_owned));
    let region = requested.first().cloned().or(up).or(now).or(down).unwrap_or_else(|| REGION.to_owned());
    check_region(&region)?;
    Ok(region)
}

/// # Errors
/// The name does not have the form of a region's.
pub(crate) fn check_region(region: &str) -> anyhow::Result<()> {
    let parts: Vec<_> = region.split('-').collect();
    let is_valid = parts.len() >= 3
        && parts.iter().all(|part| is_plain(part))
        && parts.last().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    ensure!(is_valid, "{region:?} is not a region of AWS; it should be like {REGION}");
    Ok(())
}

/// The requested types, or those before.
///
/// # Errors
/// A name does not have the form of a type's.
fn instance_types(requested: &[String], before: Vec<String>) -> anyhow::Result<Vec<String>> {
    let types = if requested.is_empty() { before } else { requested.to_vec() };
    for kind in &types {
        ensure!(
            kind.split_once('.').is_some_and(|(family, size)| is_plain(family) && is_plain(size)),
            "{kind:?} is not an instance type; it should be like {INSTANCE_TYPE}"
        );
    }
    Ok(types)
}

/// A time to live in minutes, rounded up.
///
/// # Errors
/// It is out of range.
fn minutes(time_to_live: Duration) -> anyhow::Result<u64> {
    ensure!(
        (MIN_TIME_TO_LIVE..=MAX_TIME_TO_LIVE).contains(&time_to_live),
        "a time to live must be between {} and {}",
        humantime::format_duration(MIN_TIME_TO_LIVE),
        humantime::format_duration(MAX_TIME_TO_LIVE)
    );
    Ok(time_to_live.as_secs().div_ceil(60))
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(stack: &StackOptions, size: Option<u16>, before: Option<Settings>) -> anyhow::Result<Settings> {
        Settings::new(stack, size, before, None)
    }

    fn in_region(region: &str) -> StackOptions {
        StackOptions { regions: vec![region.to_owned()], ..StackOptions::default() }
    }

    fn lives(time: Duration) -> StackOptions {
        StackOptions { time_to_live: Some(time), ..StackOptions::default() }
    }

    #[test]
    fn settings_are_remembered() {
        let nothing = StackOptions::default();
        assert!(new(&nothing, None, None).unwrap_err().to_string().contains("CLUSTER_SIZE=2"));
        let types = ["c6i.4xlarge", "c5.4xlarge"].map(str::to_owned).to_vec();
        let wanted = StackOptions {
            instance_types: types,
            time_to_live: Some(Duration::from_secs(90 * 60)),
            ..in_region("eu-west-1")
        };
        let first = new(&wanted, Some(3), None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stack.toml");
        assert_eq!(Settings::load(&path).unwrap(), None);
        first.save(&path).unwrap();
        let before = Settings::load(&path).unwrap();
        assert_eq!(before.as_ref(), Some(&first));
        assert_eq!(new(&nothing, None, before.clone()).unwrap(), first);
        let wanted = StackOptions { spot: Some(true), ..lives(Duration::from_secs(2 * 3600)) };
        let second = new(&wanted, Some(5), before.clone()).unwrap();
        assert_eq!((second.cluster_size, second.spot, second.time_to_live_minutes), (5, true, 120));
        assert_eq!(second.instance_types, ["c6i.4xlarge", "c5.4xlarge"]);
        let elsewhere = in_region("us-east-1");
        assert_eq!(new(&elsewhere, None, before.clone()).unwrap().region, "us-east-1");
        let up = before.map(|before| Settings { may_be_up: true, account: Some("1".into()), ..before });
        let other = new(&elsewhere, None, up.clone()).unwrap_err();
        assert!(other.to_string().contains("for the stack provisioned-classifier in eu-west-1"), "{other}");
        // The account matters only while the stack may be up.
        let up = up.unwrap();
        up.ensure_account("1").unwrap();
        let other = up.ensure_account("2").unwrap_err().to_string();
        assert!(other.contains("in the account 1, and the credentials are of the account 2"), "{other}");
        Settings { may_be_up: false, ..up }.ensure_account("2").unwrap();
    }

    #[test]
    fn the_profile_may_have_a_region() {
        let from = |stack: &StackOptions, before: Option<Settings>| {
            Settings::new(stack, Some(1), before, Some("ap-south-1")).unwrap().region
        };
        let (nothing, ireland) = (StackOptions::default(), in_region("eu-west-1"));
        assert_eq!(from(&nothing, None), "ap-south-1");
        assert_eq!(from(&ireland, None), "eu-west-1");
        let up = new(&ireland, Some(1), None).unwrap();
        assert_eq!(from(&nothing, Some(Settings { may_be_up: true, ..up.clone() })), "eu-west-1");
        assert_eq!(from(&nothing, Some(up)), "ap-south-1");
    }

    #[test]
    fn invalid_values_are_refused() {
        let error = |stack: &StackOptions| new(stack, Some(1), None).unwrap_err().to_string();
        let nothing = StackOptions::default();
        for seconds in [60, u64::from(u32::MAX) * 3600] {
            assert!(error(&lives(Duration::from_secs(seconds))).contains("between 10m and 7days"));
        }
        assert!(error(&in_region("oregon")).contains("is not a region"));
        let regions = ["us-west-2", "us-east-1"].map(str::to_owned).to_vec();
        assert!(error(&StackOptions { regions, ..nothing.clone() }).contains("is in one region"));
        let instance_types = vec!["huge".to_owned()];
        assert!(error(&StackOptions { instance_types, ..nothing.clone() }).contains("not an instance type"));
        let name = Some("my stack".to_owned());
        assert!(error(&StackOptions { name, ..nothing.clone() }).contains("is not a valid name for a stack"));
        let ssh_from = vec!["0.0.0.0/0".to_owned()];
        assert!(error(&StackOptions { ssh_from, ..nothing }).contains("--ssh-from anywhere"));
    }
}
