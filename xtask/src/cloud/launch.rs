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

use super::aws::{Aws, Class, Explain, class_of, unless};
use super::boot::{HostKey, user_data};
use super::desired::{EXPIRES_TAG, FINGERPRINT_TAG, ROLE_TAG, TAG};
use super::look::instances;
use super::place::{Image, Network};
use super::settings::Settings;
use super::state::{Instance, Life};
use crate::hosts::Role;
use crate::{interrupt, ui};

/// How long instances may take from their launch until they run and have their addresses.
const RUNNING_TIME: Duration = Duration::from_secs(300);
/// How long it may take until what was made is known everywhere.
const KNOWN_TIME: Duration = Duration::from_secs(30);
/// Between two looks at instances, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));

/// What all instances that are launched have in common.
pub(super) struct Launcher<'a> {
    pub(super) aws: &'a Aws,
    pub(super) settings: &'a Settings,
    pub(super) network: &'a Network,
    pub(super) image: Image,
    /// The security group.
    pub(super) group: String,
    /// The zone where the others are.
    pub(super) zone: Option<String>,
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
    /// Launches so many instances for each role, all in the same place; gives their ids.
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
        let mut places = self.places().into_iter().peekable();
        while let Some(place) = places.next() {
            let mut launched = BTreeMap::new();
            let outcome = self.launch_in(place, counts, &key, &mut launched).await;
            let Err(error) = outcome else { return Ok(launched) };
            self.end(launched.into_values().flatten().collect())
                .await
                .with_context(|| format!("{error:#}"))?;
            match class_of(&error) {
                Some(Class::Capacity) => {}
                Some(Class::NoSpot) if place.spot => {}
                _ => return Err(error),
            }
            let what = format!(
                "no {}{} in {} now ({error:#})",
                if place.spot { "spot " } else { "" },
                place.instance_type,
                place.zone
            );
            if places.peek().is_some() {
                ui::note(&format!("{what}; trying elsewhere"));
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
                places.extend(zones.iter().map(|(zone, subnet)| Place { spot, instance_type, zone, subnet }));
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
        for (&role, &count) in counts {
            interrupt::check()?;
            let ids = self.run_instances(place, role, count, key).await?;
            let found = ids.len();
            launched.insert(role, ids);
            ensure!(found == count, "EC2 launched {found} instances when {count} were asked for");
        }
        Ok(())
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
        // An interruption would take the results with it.
        let is_spot = place.spot && role != Role::Metrics;
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
            .image_id(&self.image.id)
            .instance_type(InstanceType::from(place.instance_type))
            .min_count(count as i32)
            .max_count(count as i32)
            .key_name(stack)
            .network_interfaces(interface)
            .block_device_mappings(
                BlockDeviceMapping::builder().device_name(&self.image.root).ebs(disk).build(),
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
            patiently(|| async { call.clone().send().await.explain("ec2:RunInstances", self.aws) }).await?;
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
        end(self.aws, ids).await.context(context)
    }
}

fn client_token() -> anyhow::Result<String> {
    let (a, b) = (getrandom::u64(), getrandom::u64());
    let random = |half: Result<u64, _>| half.map_err(|error| anyhow!("making up a token: {error}"));
    Ok(format!("{:016x}{:016x}", random(a)?, random(b)?))
}

/// Does something with what was made just now, and may not be known everywhere yet.
pub(super) async fn patiently<T, F>(call: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let deadline = Instant::now() + KNOWN_TIME;
    let mut pause = PAUSES.0;
    loop {
        match call().await {
            Err(error) if class_of(&error) == Some(Class::NotFound) && Instant::now() < deadline => {}
            outcome => return outcome,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Ends instances: all in one call, or, when that fails because of one of them, each for itself.
pub(super) async fn end(aws: &Aws, ids: Vec<String>) -> anyhow::Result<()> {
    let end = |ids: Vec<String>| async {
        let ended = aws.ec2.terminate_instances().set_instance_ids(Some(ids)).send().await;
        ended.explain("ec2:TerminateInstances", aws).map(drop)
    };
    let all = patiently(|| end(ids.clone())).await;
    if all.is_ok() || ids.len() == 1 {
        return all;
    }
    let mut failed = Vec::new();
    for id in ids {
        if let Err(error) = unless(Class::NotFound, end(vec![id.clone()]).await) {
            failed.push(format!("{id}: {error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// Waits until these instances run and have their addresses; gives all of the stack.
pub(super) async fn await_running(aws: &Aws, stack: &str, ids: &[String]) -> anyhow::Result<Vec<Instance>> {
    let bar = ui::Steps::new("waiting for instances", ids.len());
    let deadline = Instant::now() + RUNNING_TIME;
    let mut pause = PAUSES.0;
    loop {
        let seen = instances(aws, stack).await?;
        if let Some((id, why)) = ids.iter().find_map(|id| seen.gone.get_key_value(id)) {
            bail!("the instance {id} was launched and has ended: {why}");
        }
        let is_ready = |instance: &&Instance| {
            let has_addresses = instance.public_address.is_some() && instance.private_address.is_some();
            instance.life == Life::Running && has_addresses
        };
        // An answer may be older than the launch.
        let ready = |id: &&String| seen.there.iter().filter(is_ready).any(|instance| instance.id == **id);
        let count = ids.iter().filter(ready).count();
        bar.set(count);
        if count == ids.len() {
            return Ok(seen.there);
        }
        interrupt::check()?;
        ensure!(
            Instant::now() < deadline,
            "after {RUNNING_TIME:?}, these instances do not run, or have no public address: {}",
            ids.iter().filter(|id| !ready(id)).cloned().collect::<Vec<_>>().join(", ")
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}
