//! Where machines can run, and from which image: discovered before anything is created.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, anyhow, ensure};
use aws_sdk_ec2::types::{Filter, InstanceType, LocationType, ProcessorInfo, RouteState, RouteTable};

use crate::aws::{Aws, Explain};
use crate::discover::state::Instance;
use crate::discover::{A_PAGE, filter};
use crate::settings::Settings;

/// How many route tables one answer has at most.
const TABLES_A_PAGE: i32 = 100;
/// The account of Canonical, which publishes Ubuntu's images.
const CANONICAL: &str = "099720109477";

/// A network that the internet reaches.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) vpc: String,
    /// Subnets, by zone.
    pub(crate) subnets: BTreeMap<String, String>,
}

impl Network {
    /// The network of a subnet, or the account's default network.
    ///
    /// # Errors
    /// It does not exist, or the internet does not reach it.
    pub(crate) async fn find(aws: &Aws, subnet: Option<&str>) -> anyhow::Result<Self> {
        match subnet {
            Some(subnet) => Self::of(aws, subnet).await,
            None => Self::default(aws).await,
        }
    }

    async fn default(aws: &Aws) -> anyhow::Result<Self> {
        let call = aws.ec2.describe_vpcs().filters(filter("is-default", "true")).max_results(A_PAGE);
        let found = call.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
        let found = found.explain("ec2:DescribeVpcs", aws)?;
        let vpc = found.first().and_then(|vpc| vpc.vpc_id()).with_context(|| {
            format!(
                "the account has no default VPC in {}; make one (aws ec2 create-default-vpc), or name a subnet that the \
                 internet reaches: --subnet ID",
                aws.region
            )
        })?;
        let call = aws
            .ec2
            .describe_subnets()
            .filters(filter("vpc-id", vpc))
            .filters(filter("default-for-az", "true"))
            .max_results(A_PAGE);
        let found = call.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
        let found = found.explain("ec2:DescribeSubnets", aws)?;
        ensure!(
            !found.is_empty(),
            "the default VPC {vpc} has no default subnets; name a subnet: --subnet ID"
        );
        let tables = route_tables(aws, vpc).await?;
        let subnets: BTreeMap<_, _> = found
            .iter()
            .filter_map(|subnet| {
                Some((subnet.availability_zone()?.to_owned(), subnet.subnet_id()?.to_owned()))
            })
            .filter(|(_, subnet)| is_on_internet(&tables, subnet))
            .collect();
        ensure!(
            !subnets.is_empty(),
            "the internet reaches no subnet of the default VPC {vpc}: no route table of theirs leads 0.0.0.0/0 to an internet \
             gateway; add that route, or name a subnet that has one: --subnet ID"
        );
        Ok(Self { vpc: vpc.to_owned(), subnets })
    }

    async fn of(aws: &Aws, id: &str) -> anyhow::Result<Self> {
        let found = aws.ec2.describe_subnets().subnet_ids(id).send().await;
        let found =
            found.explain("ec2:DescribeSubnets", aws).with_context(|| format!("finding --subnet {id}"))?;
        let subnet = found.subnets().first().with_context(|| format!("there is no subnet {id}"))?;
        let vpc = subnet.vpc_id().context("a subnet has no VPC")?;
        let zone = subnet.availability_zone().context("a subnet has no zone")?;
        ensure!(
            is_on_internet(&route_tables(aws, vpc).await?, id),
            "the internet does not reach the subnet {id}, since its route table leads 0.0.0.0/0 to no internet gateway; add that \
             route, or name another subnet"
        );
        Ok(Self { vpc: vpc.to_owned(), subnets: BTreeMap::from([(zone.to_owned(), id.to_owned())]) })
    }
}

async fn route_tables(aws: &Aws, vpc: &str) -> anyhow::Result<Vec<RouteTable>> {
    let call = aws.ec2.describe_route_tables().filters(filter("vpc-id", vpc)).max_results(TABLES_A_PAGE);
    let found = call.into_paginator().items().send().collect::<Result<_, _>>().await;
    found.explain("ec2:DescribeRouteTables", aws)
}

/// Whether a subnet's own route table, or else the main one of its VPC, leads to an internet gateway.
fn is_on_internet(tables: &[RouteTable], subnet: &str) -> bool {
    let own =
        tables.iter().find(|table| table.associations().iter().any(|to| to.subnet_id() == Some(subnet)));
    let main = || tables.iter().find(|table| table.associations().iter().any(|to| to.main() == Some(true)));
    own.or_else(main).map(RouteTable::routes).unwrap_or_default().iter().any(|route| {
        route.destination_cidr_block() == Some("0.0.0.0/0")
            && route.state() != Some(&RouteState::Blackhole)
            && route.gateway_id().is_some_and(|gateway| gateway.starts_with("igw-"))
    })
}

/// Which machines to launch, and where EC2 offers them.
#[derive(Debug, Clone)]
pub(crate) struct Machines {
    pub(crate) image: Image,
    /// Zones, by instance type.
    zones: BTreeMap<String, BTreeSet<String>>,
}

impl Machines {
    /// The machines that the user wants. All machines of a stack boot the same image: with different ones, Python models might
    /// give different results.
    ///
    /// # Errors
    /// Image, types and network do not fit together.
    pub(crate) async fn find(
        aws: &Aws,
        settings: &Settings,
        network: &Network,
        existing: &[Instance],
    ) -> anyhow::Result<Self> {
        let image = match settings.image.as_ref().or(existing.first().map(|instance| &instance.image)) {
            Some(id) => Image::find(aws, id).await?,
            None => Image::newest_ubuntu(aws).await?,
        };
        check_architecture(aws, &settings.instance_types, &image).await?;
        let zones = zones(aws, &settings.instance_types).await?;
        let machines = Self { image, zones };
        let is_somewhere = settings
            .instance_types
            .iter()
            .any(|kind| network.subnets.keys().any(|zone| machines.is_offered(kind, zone)));
        ensure!(
            is_somewhere,
            "no zone of the network {} has {}; in {} there are {}: name another type (--instance-type), or a subnet of such a zone \
             (--subnet)",
            network.vpc,
            settings.instance_types.join(" or "),
            aws.region,
            machines.describe()
        );
        Ok(machines)
    }

    /// Whether a zone offers a type. The zone may still have no capacity.
    pub(crate) fn is_offered(&self, instance_type: &str, zone: &str) -> bool {
        self.zones.get(instance_type).is_some_and(|zones| zones.contains(zone))
    }

    fn describe(&self) -> String {
        let of = |(kind, zones): (&String, &BTreeSet<String>)| {
            format!("{kind} in {}", zones.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
        };
        if self.zones.is_empty() {
            "none".to_owned()
        } else {
            self.zones.iter().map(of).collect::<Vec<_>>().join("; ")
        }
    }
}

/// Checks that machines of these types can boot the image.
async fn check_architecture(aws: &Aws, types: &[String], image: &Image) -> anyhow::Result<()> {
    let wanted = types.iter().map(|kind| InstanceType::from(kind.as_str())).collect();
    let call = aws.ec2.describe_instance_types().set_instance_types(Some(wanted));
    let found = call.send().await.explain("ec2:DescribeInstanceTypes", aws).with_context(|| {
        format!("finding machines of --instance-type {} in {}", types.join(","), aws.region)
    })?;
    for kind in found.instance_types() {
        let name = kind.instance_type().map_or("", |kind| kind.as_str());
        let architectures =
            kind.processor_info().map(ProcessorInfo::supported_architectures).unwrap_or_default();
        ensure!(
            architectures.iter().any(|kind| kind.as_str() == image.architecture),
            "machines of type {name} cannot boot the image {}, which is for {}; name another type (--instance-type) or image \
             (--ami)",
            image.id,
            image.architecture
        );
    }
    Ok(())
}

/// The zones that offer these types, by type.
async fn zones(aws: &Aws, types: &[String]) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
    let of_types = Filter::builder().name("instance-type").set_values(Some(types.to_vec())).build();
    let call = aws
        .ec2
        .describe_instance_type_offerings()
        .location_type(LocationType::AvailabilityZone)
        .filters(of_types)
        .max_results(A_PAGE);
    let found = call.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let mut zones = BTreeMap::<_, BTreeSet<_>>::new();
    for offering in found.explain("ec2:DescribeInstanceTypeOfferings", aws)? {
        if let (Some(kind), Some(zone)) = (offering.instance_type(), offering.location()) {
            zones.entry(kind.as_str().to_owned()).or_default().insert(zone.to_owned());
        }
    }
    Ok(zones)
}

/// The architecture of this machine, for which the programs are built, in EC2's words.
fn own_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" }
}

#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) id: String,
    /// The device name of its root volume.
    pub(crate) root: String,
    /// In EC2's words.
    architecture: String,
}

impl Image {
    /// The image of this id.
    ///
    /// # Errors
    /// It does not exist, or is for another architecture than the programs.
    async fn find(aws: &Aws, id: &str) -> anyhow::Result<Self> {
        let found = aws.ec2.describe_images().image_ids(id).send().await;
        let found =
            found.explain("ec2:DescribeImages", aws).with_context(|| format!("finding the image {id}"))?;
        let image = found.images().first();
        let image = image.with_context(|| {
            format!("there is no image {id} in {}; name another one (--ami ID)", aws.region)
        })?;
        let architecture = image.architecture().map_or("", |kind| kind.as_str()).to_owned();
        ensure!(
            architecture == own_architecture(),
            "the image {id} is for {architecture}, and the programs built on this machine are for {}; name another image (--ami \
             ID), or use a machine of that kind",
            own_architecture()
        );
        let root = image.root_device_name().unwrap_or("/dev/sda1").to_owned();
        Ok(Self { id: id.to_owned(), root, architecture })
    }

    /// The newest image of Ubuntu's newest release with long-term support, for this machine's architecture.
    ///
    /// # Errors
    /// The region has none.
    async fn newest_ubuntu(aws: &Aws) -> anyhow::Result<Self> {
        let architecture = own_architecture();
        let name = if architecture == "arm64" { "arm64" } else { "amd64" };
        let call = aws
            .ec2
            .describe_images()
            .owners(CANONICAL)
            .filters(filter("name", &format!("ubuntu/images/hvm-ssd*/ubuntu-*-{name}-server-*")))
            .filters(filter("architecture", architecture))
            .filters(filter("state", "available"))
            .max_results(A_PAGE);
        let mut pages = call.into_paginator().send();
        let mut newest: Option<(Release, Self)> = None;
        while let Some(page) = pages.next().await {
            for image in page.explain("ec2:DescribeImages", aws)?.images() {
                let (Some(id), Some(name), Some(root)) =
                    (image.image_id(), image.name(), image.root_device_name())
                else {
                    continue;
                };
                let Some(release) = release(name, image.creation_date().unwrap_or_default()) else {
                    continue;
                };
                if newest.as_ref().is_none_or(|(newest, _)| *newest < release) {
                    let (id, root) = (id.to_owned(), root.to_owned());
                    newest = Some((release, Self { id, root, architecture: architecture.to_owned() }));
                }
            }
        }
        let (_, image) = newest.ok_or_else(|| {
            anyhow!(
                "there is no image of an Ubuntu with long-term support in {}; name an image: --ami ID",
                aws.region
            )
        })?;
        Ok(image)
    }
}

/// A release of Ubuntu by its year, and the date of an image; later is greater.
type Release = (u32, String);

/// Parses an image's name; `None` without long-term support, which releases of April of even years have.
fn release(name: &str, created: &str) -> Option<Release> {
    // ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20240801
    let version = name.rsplit('/').next()?.split('-').nth(2)?;
    let year: u32 = version.strip_suffix(".04")?.parse().ok()?;
    year.is_multiple_of(2).then(|| (year, created.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_term_releases_count() {
        let release =
            |name: &str| release(&format!("ubuntu/images/hvm-ssd/{name}"), "x").map(|(year, _)| year);
        assert_eq!(release("ubuntu-noble-24.04-amd64-server-20240801"), Some(24));
        assert_eq!(release("ubuntu-focal-20.04-amd64-server-20210223"), Some(20));
        for other in
            ["ubuntu-plucky-25.04-amd64-server-1", "ubuntu-oracular-24.10-amd64-server-1", "ubuntu-x", ""]
        {
            assert_eq!(release(other), None, "{other}");
        }
    }
}
