//! Launches instances where EC2 has capacity.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow, bail, ensure};
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, InstanceInterruptionBehavior,
    InstanceMarketOptionsRequest, InstanceMetadataOptionsRequest, InstanceNetworkInterfaceSpecification,
    InstanceType, MarketType, ResourceType, ShutdownBehavior, SpotInstanceType, SpotMarketOptions, Tag,
    TagSpecification, VolumeType,
};
use base64::Engine;

use crate::apply::boot::{HostKey, user_data};
use crate::apply::instances::{self, await_running, retry_not_found};
use crate::aws::{Aws, Explain};
use crate::desired::{EXPIRES_TAG, FINGERPRINT_TAG, ROLE_TAG, TAG};
use crate::discover::placement::{Machines, Network};
use crate::errors::{Class, class_of};
use crate::settings::Settings;
use deploy::{console, interrupt};
use deploy_ssh::inventory::Role;

/// How many instances one call launches at most. If one of a call finds no capacity, none of them starts.
const LAUNCHED_AT_ONCE: usize = 100;
/// Workers come first: they are most likely to find no capacity, and earlier instances would be terminated again.
const LAUNCH_ORDER: [Role; 3] = [Role::Worker, Role::Initializer, Role::Metrics];
/// How long terminated instances may still count towards a quota, and the pause between two tries.
const QUOTA_TIME: Duration = Duration::from_secs(120);
const QUOTA_PAUSE: Duration = Duration::from_secs(5);

/// What all launched instances have in common.
pub(crate) struct Launcher<'a> {
    pub(crate) aws: &'a Aws,
    pub(crate) settings: &'a Settings,
    pub(crate) network: &'a Network,
    pub(crate) machines: Machines,
    /// The security group's id.
    pub(crate) group: String,
    /// The zone of the existing instances, which is preferred.
    pub(crate) zone: Option<String>,
    /// Whether instances of the stack have ended recently.
    pub(crate) ended_recently: bool,
}

/// A market, type and zone to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate<'a> {
    spot: bool,
    instance_type: &'a str,
    zone: &'a str,
    subnet: &'a str,
}

impl Launcher<'_> {
    /// Launches these numbers of instances, all of one candidate, and waits until they run; returns their ids.
    ///
    /// If a candidate has no capacity for all, its launched instances are terminated before the next one is tried.
    ///
    /// # Errors
    /// No candidate has capacity, or a call failed. No launched instance is left, or the error lists those that are.
    pub(crate) async fn launch(
        &self,
        counts: &BTreeMap<Role, usize>,
    ) -> anyhow::Result<BTreeMap<Role, Vec<String>>> {
        let key = HostKey::generate()?;
        let mut tried = Vec::new();
        let mut ended_recently = self.ended_recently;
        let mut quota_deadline = None;
        let mut candidates = self.candidates().into_iter().peekable();
        while let Some(&candidate) = candidates.peek() {
            let mut launched = BTreeMap::<_, Vec<_>>::new();
            let outcome = self.try_launch(candidate, counts, &key, &mut launched).await;
            let Err(error) = outcome else { return Ok(launched) };
            let ended_may_count = ended_recently;
            ended_recently |= !launched.is_empty();
            self.terminate(launched.into_values().flatten().collect())
                .await
                .with_context(|| format!("{error:#}"))?;
            let is_quota = matches!(class_of(&error), Some(Class::Quota | Class::SpotQuota));
            if is_quota && ended_may_count {
                let deadline = *quota_deadline.get_or_insert_with(|| {
                    console::note(
                        "instances that have just ended may still count towards the quota; trying again",
                    );
                    Instant::now() + QUOTA_TIME
                });
                if Instant::now() < deadline {
                    interrupt::check()?;
                    tokio::time::sleep(QUOTA_PAUSE).await;
                    continue;
                }
            }
            candidates.next();
            match class_of(&error) {
                Some(Class::Capacity) => {}
                Some(Class::NoSpot | Class::SpotQuota) if candidate.spot => {}
                _ => return Err(error),
            }
            let Candidate { spot, instance_type, zone, .. } = candidate;
            let market = if spot { "spot " } else { "" };
            let reason = format!("no {market}{instance_type} in {zone} now ({error:#})");
            if candidates.peek().is_some() {
                console::note(&format!("{reason}; trying elsewhere"));
            }
            tried.push(format!("\n  {reason}"));
        }
        bail!(
            "there is no room for {} instances in {} now; name more types to try (--instance-type A,B,C), or another region \
             (--region):{}",
            counts.values().sum::<usize>(),
            self.aws.region,
            tried.concat()
        )
    }

    /// What to try, in order of preference: spot before on-demand, types in the user's order, the zone of the existing instances
    /// before others.
    fn candidates(&self) -> Vec<Candidate<'_>> {
        let mut zones: Vec<_> = self.network.subnets.iter().collect();
        zones.sort_by_key(|(zone, _)| self.zone.as_ref() != Some(*zone));
        let mut candidates = Vec::new();
        for spot in [true, false] {
            if spot && !self.settings.spot {
                continue;
            }
            for instance_type in &self.settings.instance_types {
                let offered = zones.iter().filter(|(zone, _)| self.machines.is_offered(instance_type, zone));
                candidates.extend(offered.map(|(zone, subnet)| Candidate {
                    spot,
                    instance_type,
                    zone,
                    subnet,
                }));
            }
        }
        candidates
    }

    /// Launches instances of one candidate. `launched` has their ids also after an error.
    async fn try_launch(
        &self,
        candidate: Candidate<'_>,
        counts: &BTreeMap<Role, usize>,
        key: &HostKey,
        launched: &mut BTreeMap<Role, Vec<String>>,
    ) -> anyhow::Result<()> {
        for role in LAUNCH_ORDER {
            let mut left = counts.get(&role).copied().unwrap_or(0);
            while left > 0 {
                interrupt::check()?;
                let count = left.min(LAUNCHED_AT_ONCE);
                let ids = self.run_instances(candidate, role, count, key).await?;
                let found = ids.len();
                launched.entry(role).or_default().extend(ids);
                ensure!(
                    found == count,
                    "EC2 launched {found} instances when {count} were requested; try again"
                );
                left -= count;
            }
        }
        let ids: Vec<_> = launched.values().flatten().cloned().collect();
        await_running(self.aws, &self.settings.stack, &ids).await.map(drop)
    }

    /// Launches instances with one call; returns their ids.
    async fn run_instances(
        &self,
        candidate: Candidate<'_>,
        role: Role,
        count: usize,
        key: &HostKey,
    ) -> anyhow::Result<Vec<String>> {
        let Settings { stack, time_to_live_minutes: minutes, .. } = self.settings;
        let tags = self.tags(role, key);
        let tagged = |kind: ResourceType| {
            TagSpecification::builder().resource_type(kind).set_tags(Some(tags.clone())).build()
        };
        let metadata =
            InstanceMetadataOptionsRequest::builder().http_tokens(HttpTokensState::Required).build();
        let data = base64::engine::general_purpose::STANDARD.encode(user_data(key, *minutes));
        let mut call = self
            .aws
            .ec2
            .run_instances()
            // A call whose answer is lost is retried, and the retry must launch no others.
            .client_token(client_token()?)
            .image_id(&self.machines.image.id)
            .instance_type(InstanceType::from(candidate.instance_type))
            .min_count(count as i32)
            .max_count(count as i32)
            .key_name(stack)
            .network_interfaces(self.interface(candidate.subnet))
            .block_device_mappings(self.disk())
            .metadata_options(metadata)
            .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
            .user_data(data)
            .tag_specifications(tagged(ResourceType::Instance))
            .tag_specifications(tagged(ResourceType::Volume));
        // An interruption of another role would end the job, or lose the results.
        if candidate.spot && role == Role::Worker {
            call = call
                .instance_market_options(spot_market())
                .tag_specifications(tagged(ResourceType::SpotInstancesRequest));
        }
        // Group and key pair may have been created just now.
        let reservation =
            retry_not_found(|| async { call.clone().send().await.explain("ec2:RunInstances", self.aws) })
                .await?;
        let ids = reservation.instances().iter().filter_map(|instance| instance.instance_id());
        Ok(ids.map(str::to_owned).collect())
    }

    fn tags(&self, role: Role, key: &HostKey) -> Vec<Tag> {
        let Settings { stack, time_to_live_minutes: minutes, .. } = self.settings;
        let expires = SystemTime::now() + Duration::from_secs(minutes * 60);
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        vec![
            tag(TAG, stack),
            tag("Name", &format!("{stack} {}", role.word())),
            tag(ROLE_TAG, role.word()),
            tag(EXPIRES_TAG, &humantime::format_rfc3339_seconds(expires).to_string()),
            tag(FINGERPRINT_TAG, &key.fingerprint),
        ]
    }

    fn interface(&self, subnet: &str) -> InstanceNetworkInterfaceSpecification {
        InstanceNetworkInterfaceSpecification::builder()
            .device_index(0)
            .subnet_id(subnet)
            .groups(&self.group)
            .associate_public_ip_address(true)
            .delete_on_termination(true)
            .build()
    }

    fn disk(&self) -> BlockDeviceMapping {
        let disk = EbsBlockDevice::builder()
            .volume_type(VolumeType::Gp3)
            .volume_size(self.settings.disk_gib as i32)
            .delete_on_termination(true)
            .build();
        BlockDeviceMapping::builder().device_name(&self.machines.image.root).ebs(disk).build()
    }

    async fn terminate(&self, ids: Vec<String>) -> anyhow::Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let context =
            format!("terminating {}, which cost money until cargo xtask down ends them", ids.join(", "));
        instances::terminate(self.aws, ids).await.context(context)
    }
}

fn spot_market() -> InstanceMarketOptionsRequest {
    let spot = SpotMarketOptions::builder()
        .spot_instance_type(SpotInstanceType::OneTime)
        .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate)
        .build();
    InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot).spot_options(spot).build()
}

/// A random token, by which EC2 recognizes the retry of a call.
fn client_token() -> anyhow::Result<String> {
    let (a, b) = (getrandom::u64(), getrandom::u64());
    let random = |half: Result<u64, _>| half.map_err(|error| anyhow!("generating a random token: {error}"));
    Ok(format!("{:016x}{:016x}", random(a)?, random(b)?))
}
