//! S3 in this process: `s3s` parses requests and checks their signatures, `s3s-fs` keeps the objects in files.
//!
//! It deviates from AWS in these points; `server/storage.rs` corrects others.
//!
//! * An object's key is a path: `a` and `a/b` exclude each other, and `a//b` is `a/b`.
//! * All keys have all rights, all regions are the same, and there are neither versions nor lifecycle rules.
//! * GET and HEAD know If-Match, but no other condition.
//! * HEAD of a bucket names no region.
//! * A completed upload has parts from 1 without gaps.
//! * A completion that is sent again is refused with `NoSuchUpload`. AWS documents this, and may also repeat its answer.

mod bodies;
mod bucket;
mod fault;
mod layer;
mod storage;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rusty_s3::{Credentials, UrlStyle};
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::sync::oneshot;

pub(crate) use bucket::{Bucket, agent};
pub(crate) use fault::{Effect, Fault, Injected, Point};
pub(crate) use layer::Request;

use bodies::Wire;
use fault::Rule;
use layer::Layer;
use storage::{Access, Keys, Storage, Uploads};

pub(crate) const REGION: &str = "us-east-1";

/// A running server with empty storage. Dropping it ends all connections, and removes the objects.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    /// Where requests of the test itself meet no faults and leave no traces.
    own_address: SocketAddr,
    keys: (String, String),
    layer: Arc<Layer>,
    uploads: Arc<Uploads>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _folder: TempDir,
}

impl Server {
    /// Starts it at a free port of 127.0.0.1, with keys that only it knows.
    pub(crate) fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// The same at another address of this machine, for hosts of a lab.
    pub(crate) fn start_at(address: Ipv4Addr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = (random(), random());
        let uploads = Arc::new(Uploads::default());
        let mut service = S3ServiceBuilder::new(Storage::new(folder.path(), uploads.clone()));
        service.set_auth(Keys { access: keys.0.clone(), secret: keys.1.clone().into() });
        service.set_access(Access);
        let layer = Arc::new(Layer::new(service.build()));
        let [listener, own_listener] = [address, Ipv4Addr::LOCALHOST].map(listen);
        let (address, own_address) = (listener.local_addr().unwrap(), own_listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let serving = serve(listener, own_listener, layer.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serving => {}
                    // It is an error, since the sender is dropped.
                    _ = stopped => {}
                }
            });
        });
        let (stop, thread) = (Some(stop), Some(thread));
        Self { address, own_address, keys, layer, uploads, stop, thread, _folder: folder }
    }

    /// What points a program with the AWS SDK, or any AWS tool, to this server.
    pub(crate) fn environment(&self) -> [(&'static str, String); 8] {
        let (access, secret) = self.keys.clone();
        [
            ("AWS_ENDPOINT_URL_S3", format!("http://{}", self.address)),
            ("AWS_ACCESS_KEY_ID", access),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_SESSION_TOKEN", String::new()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
        ]
    }

    /// Points a command to this server and nothing else, whatever the environment of the tests has.
    pub(crate) fn apply_to(&self, command: &mut Command) {
        let is_other = |name: &str| name.starts_with("AWS_") || name.to_ascii_lowercase().ends_with("_proxy");
        // The command signs requests.
        tests::s3_path();
        for (name, _) in std::env::vars().filter(|(name, _)| is_other(name)) {
            command.env_remove(name);
        }
        command.envs(self.environment());
    }

    /// Makes a bucket.
    pub(crate) fn bucket(&self, name: &str) -> Bucket {
        let bucket = self.signer_at(self.own_address, name);
        Bucket::create(bucket, self.credentials())
    }

    /// What signs requests to a bucket, which meet faults.
    pub(crate) fn signer(&self, bucket: &str) -> rusty_s3::Bucket {
        self.signer_at(self.address, bucket)
    }

    fn signer_at(&self, address: SocketAddr, bucket: &str) -> rusty_s3::Bucket {
        let endpoint = format!("http://{address}").parse().unwrap();
        rusty_s3::Bucket::new(endpoint, UrlStyle::Path, bucket.to_owned(), REGION).unwrap()
    }

    /// The keys that the server knows.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::new(&*self.keys.0, &*self.keys.1)
    }

    /// The number of multipart uploads that are neither completed nor aborted, in all buckets.
    pub(crate) fn open_uploads(&self) -> usize {
        self.uploads.open()
    }

    /// All requests so far, in the order in which they arrived, without those of [`Bucket`].
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.layer.requests()
    }

    /// Injects a fault from now on. A request meets the first fault that is due for it; each counts its own requests.
    pub(crate) fn on(&self, fault: Fault) -> Injected {
        let rule = Rule::new(fault);
        self.layer.add(rule.clone());
        Injected::new(rule)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the server panicked; its reason is above");
    }
}

fn listen(address: Ipv4Addr) -> TcpListener {
    let listener = TcpListener::bind((address, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// Serves until it is dropped.
async fn serve(listener: TcpListener, own_listener: TcpListener, layer: Arc<Layer>) {
    let with_faults = accept(listener, layer.clone(), Layer::answer);
    let without =
        accept(own_listener, layer, |layer, request, _| async move { layer.forward(request).await });
    tokio::join!(with_faults, without);
}

async fn accept<F>(
    listener: TcpListener,
    layer: Arc<Layer>,
    answer: fn(Arc<Layer>, layer::Incoming, bodies::Cut) -> F,
) where
    F: Future<Output = layer::Answered> + Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let layer = layer.clone();
        tokio::spawn(async move {
            let (wire, cut) = Wire::new(stream);
            let service = service_fn(|request| answer(layer.clone(), request, cut.clone()));
            // Clients may go at any time, and faults end connections.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(wire), service).await;
        });
    }
}

fn random() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    format!("{:032x}", u128::from_ne_bytes(bytes))
}
