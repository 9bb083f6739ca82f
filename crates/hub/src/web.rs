//! Port 4000: the page, JSON, server-sent events, Prometheus.
//!
//! Without a token, the port is open only to this machine, and only under a name that always means this machine. So another
//! site's page, in a browser here, cannot read the port by DNS rebinding: by making its own name resolve to this machine. With a
//! token, a browser that has not shown it gets a login page.

pub mod page;

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HOST, LOCATION,
    REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use futures_util::stream;
use protocol::token::{self, Token};
use serde::Serialize;
use serde_json::{Value, json};
use telemetry::view::History;
use tokio::sync::watch;

use crate::prometheus;
use crate::report_server::Shared;
use crate::snapshot;
use crate::tracker::Tracker;

/// The page may load only files of this hub.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

#[derive(Clone)]
struct Web {
    shared: Shared,
    /// The message that each page gets each second.
    live: Arc<watch::Sender<Arc<str>>>,
    access: Arc<Access>,
}

struct Access {
    token: Option<Token>,
    /// The cookie of a browser that has logged in.
    session: String,
}

/// Serves the port until the process ends.
///
/// # Errors
/// The port cannot be served.
pub fn serve(listener: TcpListener, token: Option<Token>, shared: Shared) -> anyhow::Result<()> {
    listener.set_nonblocking(true).context("preparing the page's port")?;
    let mut session = [0; 16];
    getrandom::fill(&mut session).map_err(|e| anyhow::anyhow!("generating a session key: {e}"))?;
    let access = Arc::new(Access { token, session: protocol::hash::hex(&session) });
    let message = Arc::new(watch::Sender::new(Arc::from("")));
    let (ticking, pages) = (shared.clone(), Arc::clone(&message));
    let web = Web { shared, live: message, access };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener).context("preparing the page's port")?;
        tokio::spawn(async move {
            let mut seconds = tokio::time::interval(Duration::from_secs(1));
            seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                seconds.tick().await;
                {
                    let (mut tracker, now) = ticking.lock();
                    tracker.tick(now);
                }
                // Without open pages, no message is needed.
                if pages.receiver_count() > 0 {
                    pages.send_replace(Arc::from(live(&ticking)));
                }
            }
        });
        axum::serve(listener, router(web)).await.context("serving the page")
    })
}

fn router(web: Web) -> Router {
    let pages = get(|| async { text("text/html", page::HTML) });
    let scripts = page::SCRIPTS.into_iter().fold(Router::new(), |router, (name, script)| {
        router.route(name, get(move || async move { text("text/javascript", script) }))
    });
    scripts
        .route("/", pages.clone())
        .route("/worker/{name}", pages.clone())
        .route("/computation/{name}", pages)
        .route("/style.css", get(|| async { text("text/css", page::STYLE) }))
        .route("/healthz", get(|| async { text("text/plain", "ok\n") }))
        .route("/metrics", get(metrics))
        .route("/login", post(login))
        .route("/api/v1/job", view_of(snapshot::job))
        .route("/api/v1/workers", view_of(snapshot::workers))
        .route("/api/v1/workers/{name}", get(worker))
        .route("/api/v1/computations", view_of(|tracker, _| snapshot::computations(tracker)))
        .route("/api/v1/machines", view_of(snapshot::machines))
        .route("/api/v1/processes", view_of(snapshot::processes))
        .route("/api/v1/events", view_of(|tracker, _| tracker.events().clone()))
        .route("/api/v1/history", view_of(history))
        .route("/api/v1/stream", get(stream_of))
        .layer(middleware::from_fn_with_state(web.clone(), guard))
        .with_state(web)
}

/// A handler that returns a view of the tracker as JSON.
fn view_of<T: Serialize + 'static>(show: fn(&Tracker, Duration) -> T) -> MethodRouter<Web> {
    get(move |State(web): State<Web>| async move {
        let view = {
            let (tracker, now) = web.shared.lock();
            show(&tracker, now)
        };
        json_of(StatusCode::OK, &view)
    })
}

fn text(kind: &'static str, body: &'static str) -> Response {
    let kind = format!("{kind}; charset=utf-8");
    ([(CONTENT_TYPE, kind)], body).into_response()
}

fn json_of<T: Serialize>(status: StatusCode, view: &T) -> Response {
    match serde_json::to_vec(view) {
        Ok(bytes) => (status, [(CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn history(tracker: &Tracker, _: Duration) -> History {
    let history = tracker.history();
    History { recent: history.recent().copied().collect(), whole: history.whole() }
}

async fn worker(State(web): State<Web>, Path(name): Path<String>) -> Response {
    let found = {
        let (tracker, now) = web.shared.lock();
        snapshot::worker_detail(&tracker, &name, now)
    };
    match found {
        Some(detail) => json_of(StatusCode::OK, &detail),
        None => json_of(StatusCode::NOT_FOUND, &json!({ "error": format!("there is no worker {name:?}") })),
    }
}

async fn metrics(State(web): State<Web>) -> Response {
    let text = {
        let (tracker, now) = web.shared.lock();
        prometheus::write(&tracker, now)
    };
    ([(CONTENT_TYPE, prometheus::CONTENT_TYPE)], text).into_response()
}

async fn stream_of(State(web): State<Web>) -> Response {
    let first = Event::default().data(live(&web.shared));
    let rest = stream::unfold(web.live.subscribe(), |mut live| async move {
        live.changed().await.ok()?;
        let text = Arc::clone(&live.borrow_and_update());
        Some((Event::default().data(&*text), live))
    });
    let events =
        stream::StreamExt::map(stream::StreamExt::chain(stream::iter([first]), rest), Ok::<_, Infallible>);
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

fn live(shared: &Shared) -> String {
    let (tracker, now) = shared.lock();
    message(&tracker, now)
}

/// The [message](snapshot::live) to pages, as JSON.
pub fn message(tracker: &Tracker, now: Duration) -> String {
    // Every view can be encoded.
    let mut message = serde_json::to_value(snapshot::live(tracker, now)).unwrap_or_default();
    shorten(&mut message);
    message.to_string()
}

/// Rounds fractions to three decimals; otherwise most of a message would be digits.
fn shorten(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let short = number.as_f64().map(|number| (1000.0 * number).round() / 1000.0);
            *value = short.into();
        }
        Value::Array(values) => values.iter_mut().for_each(shorten),
        Value::Object(values) => values.values_mut().for_each(shorten),
        _ => {}
    }
}

async fn login(State(web): State<Web>, body: Bytes) -> Response {
    let shown = std::str::from_utf8(&body).ok().and_then(|body| body.strip_prefix("token="));
    if web.access.token.is_some() && !token::admits(web.access.token.as_ref(), shown.map(str::trim)) {
        return (StatusCode::UNAUTHORIZED, text("text/html", page::LOGIN)).into_response();
    }
    let cookie = format!("hub={}; HttpOnly; SameSite=Strict; Path=/", web.access.session);
    (StatusCode::SEE_OTHER, [(LOCATION, "/".to_owned()), (SET_COOKIE, cookie)]).into_response()
}

/// Admits or refuses a request, and adds the security headers.
async fn guard(State(web): State<Web>, request: Request, next: Next) -> Response {
    let mut response = match web.access.admits(request.headers()) {
        Admission::In => next.run(request).await,
        Admission::Login if request.uri().path() == "/login" => next.run(request).await,
        Admission::Login => (StatusCode::UNAUTHORIZED, text("text/html", page::LOGIN)).into_response(),
        Admission::Out => {
            let reason = "This hub was requested by another name than this machine's own. Without a token it answers only \
                          to localhost and 127.0.0.1.\n";
            (StatusCode::FORBIDDEN, text("text/plain", reason)).into_response()
        }
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

enum Admission {
    In,
    Login,
    Out,
}

impl Access {
    fn admits(&self, headers: &HeaderMap) -> Admission {
        let header = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        if self.token.is_none() {
            return if header(HOST).is_some_and(is_this_machine) { Admission::In } else { Admission::Out };
        }
        let bearer = header(AUTHORIZATION).and_then(|text| text.strip_prefix("Bearer "));
        let session = Token::new(self.session.as_str());
        let mut cookies = header(COOKIE).unwrap_or_default().split("; ");
        let cookie = cookies.find_map(|cookie| cookie.strip_prefix("hub="));
        if (bearer.is_some() && token::admits(self.token.as_ref(), bearer))
            || (cookie.is_some() && token::admits(Some(&session), cookie))
        {
            Admission::In
        } else {
            Admission::Login
        }
    }
}

/// Whether a Host header has a name that always means this machine.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    ["localhost", "127.0.0.1", "::1"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn the_message_about_112_workers_has_less_than_20_kb() {
        let (scenario, mut tracker) =
            (Scenario { machines: 16, seconds: 3600, ..Scenario::default() }, Tracker::default());
        for second in 0..90 {
            scenario.pass(&mut tracker, second, &[]);
        }
        let text = message(&tracker, Duration::from_secs(89));
        assert!(text.len() < 20_000, "{} bytes", text.len());
        assert!(text.contains(r#""workers_up":112"#), "{text}");
        let message: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(message["cells"].as_array().unwrap().len(), 112);
        assert_eq!(message["workers"].as_array().unwrap().len(), snapshot::SHOWN);
    }

    #[test]
    fn only_names_that_always_mean_this_machine_are_accepted() {
        for own in ["localhost", "localhost:4000", "127.0.0.1:4000", "[::1]:4000", "[::1]"] {
            assert!(is_this_machine(own), "{own}");
        }
        for foreign in
            ["evil.example", "localhost.evil.example:4000", "10.0.0.1:4000", "", "127.0.0.1.evil.example"]
        {
            assert!(!is_this_machine(foreign), "{foreign}");
        }
    }
}
