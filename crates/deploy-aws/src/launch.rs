//! Launching instances, where there is room for them.

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

use super::aws::{Aws, Explain};
use super::boot::{HostKey, user_data};
use super::desired::{EXPIRES_TAG, FINGERPRINT_TAG, ROLE_TAG, TAG};
use super::errors::{Class, class_of};
use super::instances::{self, await_running, retry_not_found};
use super::placement::{Machines, Network};
use super::settings::Settings;
use deploy::{console, interrupt};
use deploy_ssh::inventory::Role;

/// How many instances one call launches, at most: of a call for many, none starts when one finds no room.
const LAUNCHED_AT_ONCE: usize = 100;
/// Workers first: they are the ones that may find no room, and what is launched before them would be ended again.
const LAUNCH_ORDER: [Role; 3] = [Role::Worker, Role::Initializer, Role::Metrics];
/// How long instances that have ended may still count towards a quota, and the pause between two tries.
const QUOTA_TIME: Duration = Duration::from_secs(120);
const QUOTA_PAUSE: Duration = Duration::from_secs(5);

/// What all instances that are launched have in common.
pub(super) struct Launcher<'a> {
    pub(super) aws: &'a Aws,
    pub(super) settings: &'a Settings,
    pub(super) network: &'a Network,
    pub(super) machines: Machines,
    /// The security group.
    pub(super) group: String,
    /// The zone where the others are.
    pub(super) zone: Option<String>,
    /// Whether instances of the stack have ended lately.
    pub(super) has_ended_some: bool,
}

/// What a launch is tried with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place<'a> {
    spot: bool,
    instance_type: &'a str,
    zone: &'a str,
    subnet: &'a str,
}

impl Launcher<'_> {
    /// Launches so many instances for each role, all in the same place, and waits until they run; gives their ids.
    ///
    /// Where there is no room for all, what was launched is ended again before the next place is tried.
    ///
    /// # Errors
    /// There is no room anywhere, or another reason; nothing that was launched is left then, or the message says what.
    pub(super) async fn launch(
        &self,
        counts: &BTreeMap<Role, usize>,
    ) -> anyhow::Result<BTreeMap<Role, Vec<String>>> {
        let key = HostKey::make()?;
        let mut tried = Vec::new();
        let mut has_ended_some = self.has_ended_some;
        let mut quota_deadline = None;
        let mut places = self.places().into_iter().peekable();
        while let Some(&place) = places.peek() {
            let mut launched = BTreeMap::<_, Vec<_>>::new();
            let outcome = self.launch_in(place, counts, &key, &mut launched).await;
            let Err(error) = outcome else { return Ok(launched) };
            let may_be_late = has_ended_some;
            has_ended_some |= !launched.is_empty();
            self.end(launched.into_values().flatten().collect())
                .await
                .with_context(|| format!("{error:#}"))?;
            let is_quota = matches!(class_of(&error), Some(Class::Quota | Class::SpotQuota));
            if is_quota && may_be_late {
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
            places.next();
            match class_of(&error) {
                Some(Class::Capacity) => {}
                Some(Class::NoSpot | Class::SpotQuota) if place.spot => {}
                _ => return Err(error),
            }
            let what = format!(
                "no {}{} in {} now ({error:#})",
                if place.spot { "spot " } else { "" },
                place.instance_type,
                place.zone
            );
            if places.peek().is_some() {
                console::note(&format!("{what}; trying elsewhere"));
            }
            tried.push(format!("\n  {what}"));
        }
        bail!(
            "there is no room for {} instances in {} now; name more types to try (--instance-type A,B,C), or another region \
             (--region):{}",
            counts.values().sum::<usize>(),
            self.aws.region,
            tried.concat()
        )
    }

    /// Where to try, the best first: spot before the usual market, wanted types before others, where the others are
    /// before elsewhere.
    fn places(&self) -> Vec<Place<'_>> {
        let mut zones: Vec<_> = self.network.subnets.iter().collect();
        zones.sort_by_key(|(zone, _)| self.zone.as_ref() != Some(*zone));
        let mut places = Vec::new();
        for spot in [true, false] {
            if spot && !self.settings.spot {
                continue;
            }
            for instance_type in &self.settings.instance_types {
                let offered = zones.iter().filter(|(zone, _)| self.machines.is_offered(instance_type, zone));
                places.extend(offered.map(|(zone, subnet)| Place { spot, instance_type, zone, subnet }));
            }
        }
        places
    }

    async fn launch_in(
        &self,
        place: Place<'_>,
        counts: &BTreeMap<Role, usize>,
        key: &HostKey,
        launched: &mut BTreeMap<Role, Vec<String>>,
    ) -> anyhow::Result<()> {
        for role in LAUNCH_ORDER {
            let mut left = counts.get(&role).copied().unwrap_or(0);
            while left > 0 {
                interrupt::check()?;
                let count = left.min(LAUNCHED_AT_ONCE);
                let ids = self.run_instances(place, role, count, key).await?;
                let found = ids.len();
                launched.entry(role).or_default().extend(ids);
                ensure!(found == count, "EC2 launched {found} instances when {count} were asked for");
                left -= count;
            }
        }
        let ids: Vec<_> = launched.values().flatten().cloned().collect();
        await_running(self.aws, &self.settings.stack, &ids).await.map(drop)
    }

    async fn run_instances(
        &self,
        place: Place<'_>,
        role: Role,
        count: usize,
        key: &HostKey,
    ) -> anyhow::Result<Vec<String>> {
        let Settings { stack, time_to_live_minutes: minutes, disk_gib, .. } = self.settings;
        let expires = SystemTime::now() + Duration::from_secs(minutes * 60);
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        let tags = [
            tag(TAG, stack),
            tag("Name", &format!("{stack} {}", role.word())),
            tag(ROLE_TAG, role.word()),
            tag(EXPIRES_TAG, &humantime::format_rfc3339_seconds(expires).to_string()),
            tag(FINGERPRINT_TAG, &key.fingerprint),
        ];
        let tagged = |kind: ResourceType| {
            TagSpecification::builder().resource_type(kind).set_tags(Some(tags.to_vec())).build()
        };
        // An interruption of another one would take the job with it, or the results.
        let is_spot = place.spot && role == Role::Worker;
        let interface = InstanceNetworkInterfaceSpecification::builder()
            .device_index(0)
            .subnet_id(place.subnet)
            .groups(&self.group)
            .associate_public_ip_address(true)
            .delete_on_termination(true)
            .build();
        let disk = EbsBlockDevice::builder()
            .volume_type(VolumeType::Gp3)
            .volume_size(*disk_gib as i32)
            .delete_on_termination(true)
            .build();
        let metadata =
            InstanceMetadataOptionsRequest::builder().http_tokens(HttpTokensState::Required).build();
        let data = user_data(key, *minutes);
        let mut call = self
            .aws
            .ec2
            .run_instances()
            // A call whose answer is lost is tried again, and must not launch others then.
            .client_token(client_token()?)
            .image_id(&self.machines.image.id)
            .instance_type(InstanceType::from(place.instance_type))
            .min_count(count as i32)
            .max_count(count as i32)
            .key_name(stack)
            .network_interfaces(interface)
            .block_device_mappings(
                BlockDeviceMapping::builder().device_name(&self.machines.image.root).ebs(disk).build(),
            )
            .metadata_options(metadata)
            .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
            .user_data(base64::engine::general_purpose::STANDARD.encode(data))
            .tag_specifications(tagged(ResourceType::Instance))
            .tag_specifications(tagged(ResourceType::Volume));
        if is_spot {
            let spot = SpotMarketOptions::builder()
                .spot_instance_type(SpotInstanceType::OneTime)
                .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate)
                .build();
            let market =
                InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot).spot_options(spot);
            call = call
                .instance_market_options(market.build())
                .tag_specifications(tagged(ResourceType::SpotInstancesRequest));
        }
        // The group and the key pair may have been made just now.
        let reservation =
            retry_not_found(|| async { call.clone().send().await.explain("ec2:RunInstances", self.aws) })
                .await?;
        Ok(reservation
            .instances()
            .iter()
            .filter_map(|instance| instance.instance_id())
            .map(str::to_owned)
            .collect())
    }

    /// Ends instances that were launched just now.
    async fn end(&self, ids: Vec<String>) -> anyhow::Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let context = format!("ending {}, which were launched; they still cost money", ids.join(", "));
        instances::end(self.aws, ids).await.context(context)
    }
}

fn client_token() -> anyhow::Result<String> {
    let (a, b) = (getrandom::u64(), getrandom::u64());
    let random = |half: Result<u64, _>| half.map_err(|error| anyhow!("making up a token: {error}"));
    Ok(format!("{:016x}{:016x}", random(a)?, random(b)?))
}
