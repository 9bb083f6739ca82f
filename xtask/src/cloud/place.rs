//! Where machines can be, and what they boot from.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow, ensure};
use aws_sdk_ec2::types::{ArchitectureValues, RouteTable};

use super::aws::{Aws, Explain};
use super::look::filter;

/// Who makes Ubuntu's images.
const CANONICAL: &str = "099720109477";

/// Where machines can be: a network that the internet reaches, and its zones.
#[derive(Debug, Clone)]
pub(super) struct Network {
    pub(super) vpc: String,
    /// Zones, each with a subnet.
    pub(super) subnets: BTreeMap<String, String>,
}

impl Network {
    /// The account's default network, or the one of a subnet.
    ///
    /// # Errors
    /// There is none, or it is not on the internet.
    pub(super) async fn find(aws: &Aws, subnet: Option<&str>) -> anyhow::Result<Self> {
        match subnet {
            Some(subnet) => Self::of(aws, subnet).await,
            None => Self::default(aws).await,
        }
    }

    async fn default(aws: &Aws) -> anyhow::Result<Self> {
        let found = aws.ec2.describe_vpcs().filters(filter("is-default", "true")).send().await;
        let found = found.explain("ec2:DescribeVpcs", aws)?;
        let vpc = found.vpcs().first().and_then(|vpc| vpc.vpc_id()).with_context(|| {
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
            .filters(filter("default-for-az", "true"));
        let found = call.send().await.explain("ec2:DescribeSubnets", aws)?;
        let subnets = found.subnets().iter();
        let subnets: BTreeMap<_, _> = subnets
            .filter_map(|subnet| {
                Some((subnet.availability_zone()?.to_owned(), subnet.subnet_id()?.to_owned()))
            })
            .collect();
        ensure!(
            !subnets.is_empty(),
            "the default VPC {vpc} has no default subnets; name a subnet: --subnet ID"
        );
        Ok(Self { vpc: vpc.to_owned(), subnets })
    }

    async fn of(aws: &Aws, id: &str) -> anyhow::Result<Self> {
        let found = aws.ec2.describe_subnets().subnet_ids(id).send().await;
        let found = found
            .explain("ec2:DescribeSubnets", aws)
            .with_context(|| format!("looking for --subnet {id}"))?;
        let subnet = found.subnets().first().with_context(|| format!("there is no subnet {id}"))?;
        let vpc = subnet.vpc_id().context("a subnet has no VPC")?;
        let zone = subnet.availability_zone().context("a subnet has no zone")?;
        let tables = aws.ec2.describe_route_tables().filters(filter("vpc-id", vpc)).send().await;
        let tables = tables.explain("ec2:DescribeRouteTables", aws)?;
        let tables = tables.route_tables();
        // Its own, or else the main one of the VPC.
        let own =
            tables.iter().find(|table| table.associations().iter().any(|to| to.subnet_id() == Some(id)));
        let main =
            || tables.iter().find(|table| table.associations().iter().any(|to| to.main() == Some(true)));
        let routes = own.or_else(main).map(RouteTable::routes).unwrap_or_default();
        ensure!(
            routes.iter().any(|route| route.gateway_id().is_some_and(|gateway| gateway.starts_with("igw-"))),
            "the internet does not reach the subnet {id}, since its route table has no internet gateway; name another one"
        );
        Ok(Self { vpc: vpc.to_owned(), subnets: BTreeMap::from([(zone.to_owned(), id.to_owned())]) })
    }
}

/// What machines boot from.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) id: String,
    /// The name of its root volume.
    pub(super) root: String,
}

impl Image {
    /// The image of this id.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn find(aws: &Aws, id: &str) -> anyhow::Result<Self> {
        let found = aws.ec2.describe_images().image_ids(id).send().await;
        let found = found
            .explain("ec2:DescribeImages", aws)
            .with_context(|| format!("looking for the image {id}"))?;
        let image =
            found.images().first().with_context(|| format!("there is no image {id} in {}", aws.region))?;
        Ok(Self { id: id.to_owned(), root: image.root_device_name().unwrap_or("/dev/sda1").to_owned() })
    }

    /// The newest image of Ubuntu's newest release with long-term support, for processors of this machine's kind.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn newest_ubuntu(aws: &Aws) -> anyhow::Result<Self> {
        let (name, architecture) = match std::env::consts::ARCH {
            "aarch64" => ("arm64", ArchitectureValues::Arm64),
            _ => ("amd64", ArchitectureValues::X8664),
        };
        let call = aws
            .ec2
            .describe_images()
            .owners(CANONICAL)
            .filters(filter("name", &format!("ubuntu/images/hvm-ssd*/ubuntu-*-{name}-server-*")))
            .filters(filter("architecture", architecture.as_str()))
            .filters(filter("state", "available"));
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
                    newest = Some((release, Self { id: id.to_owned(), root: root.to_owned() }));
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

/// A release of Ubuntu, and when its image was made; later is greater.
type Release = (u32, String);

/// The release that an image's name tells of, if it has long-term support: those of April of even years.
fn release(name: &str, made: &str) -> Option<Release> {
    // ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20240801
    let version = name.rsplit('/').next()?.split('-').nth(2)?;
    let year: u32 = version.strip_suffix(".04")?.parse().ok()?;
    year.is_multiple_of(2).then(|| (year, made.to_owned()))
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
