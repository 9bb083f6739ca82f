//! Starts the programs of a job, each with the addresses of those before it.

use std::time::Duration;

use anyhow::Context;
use protocol::ports;

use super::hub::report_args;
use super::programs::Programs;
use super::{Export, Hub, Input, Job};
use crate::host::{Host, MODEL, arg, at};
use crate::options;

/// Seconds that a sender waits for the cluster, which must form again when one of its processes has died.
const SENDER_PATIENCE: u64 = 600;

/// Seconds that the cluster waits for a sender that may have to fetch all of its input first: a day.
const FETCH_PATIENCE: u64 = 24 * 3600;

/// The name of the classifier at this place in a cluster; the first one is the initializer.
pub(crate) fn classifier_name(place: usize) -> String {
    if place == 0 { "initializer".to_owned() } else { format!("worker{place}") }
}

pub(super) struct Launcher<'a, 'j> {
    job: &'j Job,
    hub: Option<&'j Hub>,
    pub(super) programs: Programs<'a>,
}

impl<'a, 'j> Launcher<'a, 'j> {
    pub(super) fn new(job: &'j Job, hub: Option<&'j Hub>) -> Self {
        Self { job, hub, programs: Programs::default() }
    }

    /// Starts the receiver; returns its address for results.
    pub(super) fn receiver(&mut self, host: &'a dyn Host) -> anyhow::Result<String> {
        let Job { results, archive, export, max_rejects, .. } = self.job;
        let mut args = vec!["--framed".into(), "--listen".into(), at(host, ports::RESULTS)];
        args.extend(["--output".into(), arg(results)]);
        args.extend(archive.iter().flat_map(|archive| ["--archive".into(), arg(archive)]));
        if let Some(Export { form, upload, formats }) = export {
            args.extend(form.iter().flat_map(|form| ["--form".into(), form.to_string()]));
            if let Some((prefix, signed)) = upload {
                args.extend(["--upload".into(), prefix.clone(), "--signed".into(), arg(signed)]);
            }
            args.extend(["--formats".into(), arg(formats)]);
        }
        args.extend(max_rejects.iter().flat_map(|most| ["--max-rejects".into(), most.to_string()]));
        let receiver = self.start(host, "receiver", "receiver", args)?;
        self.programs.await_address(receiver, "results", self.ready_time())
    }

    /// Starts the classifiers, which send results to this address; returns the address for rows.
    pub(super) fn cluster(&mut self, hosts: &[&'a dyn Host], results: &str) -> anyhow::Result<String> {
        let Job { model_args, workers, .. } = self.job;
        let mut common = model_args.clone();
        common.extend(["--out".into(), results.to_owned()]);
        common.extend(["--worker-count".into(), hosts.len().to_string()]);
        common.extend(["--workers".into(), workers.to_string()]);
        let (host, others) = hosts.split_first().context("a job needs a classifier")?;
        let initializer = self.initializer(*host, common.clone())?;
        if !others.is_empty() {
            let control = self.programs.await_address(initializer, "control", self.ready_time())?;
            for (place, host) in (1..).zip(others) {
                self.worker(*host, &classifier_name(place), &control, common.clone())?;
            }
        }
        self.programs.await_address(initializer, "rows", self.ready_time())
    }

    /// The initializer waits for the others, and all of them load the model.
    fn ready_time(&self) -> Duration {
        options::ready_time(&self.job.model_args)
    }

    fn initializer(&mut self, host: &'a dyn Host, mut args: Vec<String>) -> anyhow::Result<usize> {
        args.push("--cluster-initializer".into());
        if self.job.input.has_address() {
            args.extend(["--patience".into(), FETCH_PATIENCE.to_string()]);
        }
        args.extend(["--in".into(), at(host, ports::ROWS), "--control".into(), at(host, ports::CONTROL)]);
        args.extend(["--my-data".into(), at(host, ports::DATA)]);
        self.classifier(host, &classifier_name(0), args)
    }

    fn worker(
        &mut self,
        host: &'a dyn Host,
        name: &str,
        control: &str,
        mut args: Vec<String>,
    ) -> anyhow::Result<usize> {
        args.extend(["--control".into(), control.to_owned(), "--my-data".into(), at(host, ports::DATA)]);
        self.classifier(host, name, args)
    }

    fn classifier(&mut self, host: &'a dyn Host, name: &str, mut args: Vec<String>) -> anyhow::Result<usize> {
        let log = host.logs().join(format!("{name}.{MODEL}"));
        args.extend(["--name".into(), name.to_owned(), "--model-log".into(), arg(&log)]);
        self.start(host, name, "classifier", args)
    }

    /// Starts the sender, which sends rows to this address.
    pub(super) fn sender(&mut self, host: &'a dyn Host, rows: String) -> anyhow::Result<usize> {
        let Job { input, types, token, .. } = self.job;
        // A restarted sender has the same session.
        let mut args = vec![rows, "--session".into(), protocol::hash::short_hex(token.secret().as_bytes())];
        if !matches!(input, Input::Stdin { .. }) {
            args.extend(["--patience".into(), SENDER_PATIENCE.to_string()]);
        }
        args.extend(types.iter().flat_map(|types| ["--types".into(), types.clone()]));
        args.extend(input.sender_args());
        self.start(host, "sender", "sender", args)
    }

    fn start(
        &mut self,
        host: &'a dyn Host,
        name: &str,
        program: &'static str,
        args: Vec<String>,
    ) -> anyhow::Result<usize> {
        // First, since a sender's input may follow a "--".
        let mut all = report_args(self.hub, host);
        all.extend(self.job.token_args());
        all.extend(args);
        self.programs.start(self.job, host, name, program, all)
    }
}
