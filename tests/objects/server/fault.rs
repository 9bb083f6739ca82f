//! Faults, and which requests meet them.

use std::sync::Arc;

use hyper::Request;
use tests::eventually;
use tests::program::Program;
use tokio::sync::watch;

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Effect {
    /// The server answers 503 `SlowDown`, and performs nothing.
    SlowDown,
    /// The server answers 403 `Request has expired`, and performs nothing.
    Expired,
    /// The server closes the connection before it reads the request's body.
    Close,
    /// The server performs the request, and closes the connection in place of an answer.
    LoseAnswer,
    /// The server sends so many bytes of the answer's body, and closes the connection; a shorter body is sent whole.
    CutAfter(u64),
    /// The server sends so many bytes of the answer's body, and nothing more; a shorter body is sent whole.
    StallAfter(u64),
    /// The server never answers, and performs nothing.
    Hang,
    /// The server waits for [`Injected::release`], even if the client goes meanwhile.
    Pause(Point),
}

/// Where a request waits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Point {
    /// Before it is performed.
    Arrived,
    /// When at least so many bytes of its body have been read. A shorter body has no such point.
    Received(u64),
    /// When it was performed, before the answer.
    Performed,
}

/// An effect, and the requests that it is for: all, if nothing else is said.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(super) effect: Effect,
    method: Option<&'static str>,
    texts: Vec<String>,
    first: usize,
    times: usize,
}

impl Fault {
    pub(crate) fn new(effect: Effect) -> Self {
        Self { effect, method: None, texts: Vec::new(), first: 1, times: usize::MAX }
    }

    /// Only requests with this method.
    pub(crate) fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only requests with this text in their path and query, as they are in the request line, with escapes. Called again, it
    /// wants both texts. Parameters are sorted by name, so that `partNumber=2&` is only part 2 and `?uploads` begins uploads.
    pub(crate) fn with(mut self, text: impl Into<String>) -> Self {
        self.texts.push(text.into());
        self
    }

    /// Only from the `n`th such request on, from 1.
    pub(crate) fn from(mut self, n: usize) -> Self {
        self.first = n;
        self
    }

    /// Only so many requests.
    pub(crate) fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    fn is_for<B>(&self, request: &Request<B>) -> bool {
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        self.method.is_none_or(|method| request.method() == method)
            && self.texts.iter().all(|text| target.contains(text.as_str()))
    }
}

/// A fault that has been injected.
#[derive(Debug)]
pub(super) struct Rule {
    fault: Fault,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: usize,
    effects: usize,
    is_released: bool,
    is_over: bool,
}

impl Rule {
    pub(super) fn new(fault: Fault) -> Arc<Self> {
        Arc::new(Self { fault, state: watch::Sender::default() })
    }

    pub(super) fn effect(&self) -> Effect {
        self.fault.effect
    }

    /// Counts the request, and returns whether it meets the fault.
    pub(super) fn count<B>(&self, request: &Request<B>) -> bool {
        if !self.fault.is_for(request) {
            return false;
        }
        let Fault { first, times, .. } = self.fault;
        let mut is_due = false;
        self.state.send_modify(|state| {
            state.seen += 1;
            is_due = !state.is_over && state.seen >= first && state.seen - first < times;
        });
        is_due
    }

    /// Notes that the effect has happened.
    pub(super) fn happened(&self) {
        self.state.send_modify(|state| state.effects += 1);
    }

    /// Notes that a request waits, and waits.
    pub(super) async fn pause(self: Arc<Self>) {
        self.happened();
        // An error means that the sender is dropped, but it is part of this.
        let _ = self.state.subscribe().wait_for(|state| state.is_released).await;
    }
}

/// What a test does with a fault that it has injected. Dropping it changes nothing.
#[derive(Debug)]
pub(crate) struct Injected(Arc<Rule>);

impl Injected {
    pub(super) fn new(rule: Arc<Rule>) -> Self {
        Self(rule)
    }

    /// How often the effect has happened: a request was refused or paused, or its connection was cut.
    pub(crate) fn count(&self) -> usize {
        self.0.state.borrow().effects
    }

    /// Waits until the effect has happened `n` times.
    ///
    /// # Panics
    /// If it does not within [`tests::PATIENCE`].
    pub(crate) fn wait(&self, n: usize) {
        eventually(&format!("{n} of {:?}", self.0.fault), || (self.count() >= n).then_some(()));
    }

    /// As [`Self::wait`], while a program runs whose requests these are.
    ///
    /// # Panics
    /// If it ends before.
    pub(crate) fn wait_in(&self, program: &mut Program, n: usize) {
        eventually(&format!("{n} of {:?}", self.0.fault), || {
            let is_running = program.is_running();
            let is_there = self.count() >= n;
            assert!(is_there || is_running, "{:?} did not happen:\n{}", self.0.fault, program.output());
            is_there.then_some(())
        });
    }

    /// Lets paused requests go on, and those that come later.
    pub(crate) fn release(&self) {
        self.0.state.send_modify(|state| state.is_released = true);
    }

    /// No more requests meet the fault.
    pub(crate) fn end(&self) {
        self.0.state.send_modify(|state| state.is_over = true);
    }
}
