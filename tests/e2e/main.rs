//! End-to-end tests of the programs and commands.

#![allow(clippy::unwrap_used, reason = "in a test, a panic fails the test")]
#![allow(clippy::print_stderr, reason = "tests print what they find")]

mod addresses;
mod agent;
mod backpressure;
mod bad_input;
mod bad_peers;
mod builds;
mod columns;
mod examples;
mod exit_codes;
mod formats;
mod full_disks;
mod hub;
mod hub_cluster;
mod input_changes;
mod inputs;
mod job_life;
mod lab;
mod lying_peers;
mod one_table;
mod partial_results;
mod plain_clients;
mod power_loss;
mod prometheus;
mod python_model;
mod recovery;
mod reject_budget;
mod remote_shells;
mod restarts;
mod resumed_jobs;
mod run_cluster;
mod run_locally;
mod same_bytes;
mod shipped_models;
mod typed_models;
