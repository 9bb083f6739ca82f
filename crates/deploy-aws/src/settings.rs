//! What the user asks of a stack, and what is remembered of that.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use super::stack_id::StackId;
use deploy::request::StackOptions;

/// What a stack is called unless the user says otherwise.
pub(super) const STACK: &str = "provisioned-classifier";
/// Where it is unless the user says otherwise.
pub(super) const REGION: &str = "us-west-2";
/// What its machines are unless the user says otherwise: of this machine's processor, for which the programs are built.
const INSTANCE_TYPE: &str = if cfg!(target_arch = "aarch64") { "c7g.4xlarge" } else { "c5.4xlarge" };
/// When its machines end themselves unless the user says otherwise.
const TIME_TO_LIVE: Duration = Duration::from_secs(4 * 3600);
/// The least time to live: less would end machines before they are ready.
const LEAST_TIME_TO_LIVE: Duration = Duration::from_secs(10 * 60);
/// The longest: what lives longer is hardly for a job.
const LONGEST_TIME_TO_LIVE: Duration = Duration::from_secs(7 * 24 * 3600);
/// The user that Ubuntu's images have.
const SSH_USER: &str = "ubuntu";
/// Root volumes, in GiB.
const DISK_GIB: u32 = 30;

/// What the user asks for. All of it is remembered, so that a second `up` needs no flags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// The name of the stack; all that belongs to it is tagged with it.
    pub(super) stack: String,
    pub(super) region: String,
    /// Machines that classify, the initializer among them.
    pub(super) cluster_size: usize,
    /// What machines may be, the most wanted first.
    pub(super) instance_types: Vec<String>,
    /// Their image, if it is not to be Ubuntu's newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<String>,
    /// Where they are, if not in the default VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subnet: Option<String>,
    /// From where SSH is let in, if not only from this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ssh_from: Option<BTreeSet<String>>,
    pub(super) ssh_user: String,
    /// Whether machines that classify may be spot instances.
    pub(super) spot: bool,
    /// After how many minutes a machine ends itself.
    pub(super) time_to_live_minutes: u64,
    /// The size of root volumes.
    pub(super) disk_gib: u32,
    /// The number of the account that the stack is in, since the last `up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) account: Option<String>,
    /// Whether something of the stack may be in the cloud: from before the first call that makes something until a `down`
    /// that has looked.
    #[serde(default)]
    pub(super) may_be_up: bool,
}

impl Settings {
    /// What is asked for now, and for the rest what was asked for before.
    ///
    /// # Errors
    /// Values that make no sense; a cluster size that nobody has ever said.
    pub(super) fn new(
        args: &StackOptions,
        cluster_size: Option<u16>,
        before: Option<Self>,
        profile_region: Option<&str>,
    ) -> anyhow::Result<Self> {
        let cluster_size = cluster_size.map(usize::from).or(before.as_ref().map(|b| b.cluster_size));
        let cluster_size = cluster_size
            .context("how many machines? Say it once, and it is remembered: cargo xtask up CLUSTER_SIZE=2")?;
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
        let before = before.unwrap_or_else(|| Self {
            stack: stack.clone(),
            region: region.clone(),
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
        });
        ensure!(
            (1..=1000).contains(&cluster_size)
                && before.time_to_live_minutes * 60 <= LONGEST_TIME_TO_LIVE.as_secs(),
            "what is remembered of the stack makes no sense (stack.toml); remove that file, and say again what is wanted"
        );
        let instance_types = match args.instance_types.as_slice() {
            [] => before.instance_types,
            types => types.to_vec(),
        };
        for kind in &instance_types {
            ensure!(
                kind.split_once('.').is_some_and(|(family, size)| is_plain(family) && is_plain(size)),
                "{kind:?} is no instance type; it should be like {INSTANCE_TYPE}"
            );
        }
        let time_to_live = match args.time_to_live {
            Some(ttl) => {
                ensure!(
                    (LEAST_TIME_TO_LIVE..=LONGEST_TIME_TO_LIVE).contains(&ttl),
                    "a time to live has to be between {} and {}",
                    humantime::format_duration(LEAST_TIME_TO_LIVE),
                    humantime::format_duration(LONGEST_TIME_TO_LIVE)
                );
                ttl.as_secs().div_ceil(60)
            }
            None => before.time_to_live_minutes,
        };
        Ok(Self {
            stack,
            region,
            cluster_size,
            instance_types,
            image: args.image.clone().or(before.image),
            subnet: args.subnet.clone().or(before.subnet),
            ssh_from: match args.ssh_from.as_slice() {
                [] => before.ssh_from,
                networks => Some(networks.iter().map(|text| network(text)).collect::<anyhow::Result<_>>()?),
            },
            ssh_user: args.ssh_user.clone().unwrap_or(before.ssh_user),
            spot: args.spot.unwrap_or(before.spot),
            time_to_live_minutes: time_to_live,
            disk_gib: args.disk_gib.unwrap_or(before.disk_gib),
            account: before.account,
            may_be_up: before.may_be_up,
        })
    }

    /// The stack, as far as it is known where it is.
    pub(super) fn id(&self) -> Option<StackId> {
        let account = self.account.clone()?;
        Some(StackId { name: self.stack.clone(), region: self.region.clone(), account })
    }

    /// Whether a stack that may be up is in this account.
    ///
    /// # Errors
    /// It is in another one; names both.
    pub(super) fn ensure_account(&self, account: &str) -> anyhow::Result<()> {
        self.id().filter(|_| self.may_be_up).map_or(Ok(()), |id| id.ensure_account(account))
    }

    /// Where settings are remembered: beside the inventory.
    pub(super) fn path(inventory: &Path) -> PathBuf {
        inventory.with_file_name("stack.toml")
    }

    /// What is remembered.
    ///
    /// # Errors
    /// A file that cannot be understood.
    pub(super) fn load(path: &Path) -> anyhow::Result<Option<Self>> {
        let Some(text) = files::read_if_there(path)? else { return Ok(None) };
        let context = || format!("understanding what is remembered of the stack in {}", path.display());
        toml::from_slice(&text).map(Some).with_context(context)
    }

    /// Remembers.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let text = toml::to_string(self).context("encoding the settings of the stack")?;
        let text = format!("# What cargo xtask up was asked for; the next one needs no flags.\n\n{text}");
        files::replace_file(path, text.as_bytes())
    }
}

/// The name of the stack.
///
/// # Errors
/// A name that cannot be one.
pub(super) fn stack(said: Option<&str>, before: Option<&Settings>) -> anyhow::Result<String> {
    let stack = said.map(str::to_owned).or(before.map(|before| before.stack.clone()));
    let stack = stack.unwrap_or_else(|| STACK.to_owned());
    let usual = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    ensure!(
        (1..=64).contains(&stack.len()) && stack.chars().all(usual) && !stack.starts_with('-'),
        "{stack:?} is no name for a stack: up to 64 letters, digits, - and _ make one"
    );
    Ok(stack)
}

/// The region of the stack.
///
/// # Errors
/// A name that cannot be one.
pub(super) fn region(
    said: &[String],
    before: Option<&Settings>,
    profile_region: Option<&str>,
) -> anyhow::Result<String> {
    if let [_, _, ..] = said {
        bail!("a stack is in one region, not in {}", said.join(" and "));
    }
    let (up, down) = match before {
        Some(before) if before.may_be_up => (Some(before.region.clone()), None),
        Some(before) => (None, Some(before.region.clone())),
        None => (None, None),
    };
    let variable = ["AWS_REGION", "AWS_DEFAULT_REGION"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|region| !region.is_empty()));
    // Where a stack may be up; else what the environment and the profile say now comes before what was said once.
    let now = variable.or(profile_region.map(str::to_owned));
    let region = said.first().cloned().or(up).or(now).or(down).unwrap_or_else(|| REGION.to_owned());
    check_region(&region)?;
    Ok(region)
}

/// Whether this looks like a region's name.
///
/// # Errors
/// It does not.
pub(super) fn check_region(region: &str) -> anyhow::Result<()> {
    let parts: Vec<_> = region.split('-').collect();
    let good = parts.len() >= 3
        && parts.iter().all(|part| is_plain(part))
        && parts.last().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    ensure!(good, "{region:?} is no region of AWS; it should be like {REGION}");
    Ok(())
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// A network in the form that AWS keeps it in. The whole world has to be asked for by name.
fn network(text: &str) -> anyhow::Result<String> {
    if text == "anywhere" {
        return Ok("0.0.0.0/0".to_owned());
    }
    let context = || {
        format!("{text:?} is no network to let SSH in from; it should be like 203.0.113.7/32, or anywhere")
    };
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().with_context(context)?;
    let (bits, whole) = match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    let length: u32 = if text.contains('/') { length.parse().with_context(context)? } else { whole };
    ensure!(length <= whole, context());
    ensure!(
        length > 0,
        "{text} is the whole world; if SSH is to be let in from there, say: --ssh-from anywhere"
    );
    let bits = bits & (u128::MAX << (128 - length));
    let address: IpAddr = match address {
        IpAddr::V4(_) => IpAddr::V4(((bits >> 96) as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(bits.into()),
    };
    Ok(format!("{address}/{length}"))
}

/// The phone numbers of those on call.
///
/// # Errors
/// Something that is no list, or no number in E.164 form.
pub(super) fn on_call(path: &Path) -> anyhow::Result<BTreeSet<String>> {
    let Some(text) = files::read_if_there(path)? else { return Ok(BTreeSet::new()) };
    let numbers: BTreeSet<String> = serde_json::from_slice(&text).with_context(|| {
        format!("understanding {}, which should be a JSON list of phone numbers as strings", path.display())
    })?;
    for number in &numbers {
        let digits = number.strip_prefix('+').unwrap_or_default();
        let good = (2..=15).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && !digits.starts_with('0');
        ensure!(
            good,
            "{number:?} in {} is no phone number in E.164 form, such as \"+14155550100\"",
            path.display()
        );
    }
    Ok(numbers)
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
    fn what_was_asked_for_is_remembered() {
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
        // Only now is it certain whose account it must be.
        let up = up.unwrap();
        up.ensure_account("1").unwrap();
        let other = up.ensure_account("2").unwrap_err().to_string();
        assert!(other.contains("in the account 1, and the credentials are of the account 2"), "{other}");
        Settings { may_be_up: false, ..up }.ensure_account("2").unwrap();
    }

    #[test]
    fn the_profile_has_a_region() {
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
    fn senseless_values_are_refused() {
        let error = |stack: &StackOptions| new(stack, Some(1), None).unwrap_err().to_string();
        let nothing = StackOptions::default();
        for seconds in [60, u64::from(u32::MAX) * 3600] {
            assert!(error(&lives(Duration::from_secs(seconds))).contains("between 10m and 7days"));
        }
        assert!(error(&in_region("oregon")).contains("is no region"));
        let regions = ["us-west-2", "us-east-1"].map(str::to_owned).to_vec();
        assert!(error(&StackOptions { regions, ..nothing.clone() }).contains("is in one region"));
        let instance_types = vec!["huge".to_owned()];
        assert!(error(&StackOptions { instance_types, ..nothing.clone() }).contains("is no instance type"));
        let name = Some("my stack".to_owned());
        assert!(error(&StackOptions { name, ..nothing.clone() }).contains("is no name for a stack"));
        let ssh_from = vec!["0.0.0.0/0".to_owned()];
        assert!(error(&StackOptions { ssh_from, ..nothing }).contains("--ssh-from anywhere"));
    }

    #[test]
    fn networks_are_as_aws_keeps_them() {
        assert_eq!(network("203.0.113.7").unwrap(), "203.0.113.7/32");
        assert_eq!(network("203.0.113.7/24").unwrap(), "203.0.113.0/24");
        assert_eq!(network("2001:db8::1/32").unwrap(), "2001:db8::/32");
        assert_eq!(network("anywhere").unwrap(), "0.0.0.0/0");
        for wrong in ["", "office", "1.2.3/8", "1.2.3.4/33", "1.2.3.4/", "::/0", "1.2.3.4/-1"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ONCALL.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            on_call(&path)
        };
        assert!(on_call(&folder.path().join("no")).unwrap().is_empty());
        assert_eq!(read("[\"+14155550100\", \"+4930123456\"]").unwrap().len(), 2);
        for wrong in
            ["{}", "[1]", "[\"14155550100\"]", "[\"+0123456\"]", "[\"+1 415\"]", "[\"+1234567890123456\"]"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
