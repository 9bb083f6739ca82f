//! A real Chromium, driven through ChromeDriver.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::elements::Element;
use fantoccini::error::CmdError;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::PATIENCE;
use tests::eventually;
use tests::program::Program;
use tokio::runtime::Runtime;
use url::{ParseError, Url};

/// Size of the window, in pixels.
const WINDOW: (u32, u32) = (1280, 1000);
/// Time between two looks at the page while waiting for something.
const POLL_PAUSE: Duration = Duration::from_millis(100);
const PROGRAM: &str = "chromedriver";

/// A browser with one window; dropping it ends it.
pub(crate) struct Browser {
    client: Client,
    runtime: Runtime,
    _driver: Program,
    _folder: TempDir,
}

impl Browser {
    /// Skips the test and returns `None` if chromedriver is not installed.
    pub(crate) fn start(test: &str) -> Option<Self> {
        let found = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            tests::skip(
                test,
                "there is no chromedriver (on Debian: apt-get install chromium chromium-driver)",
            );
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("--port=0");
        let driver = Program::start_command(PROGRAM, folder.path(), command);
        let port = eventually("ChromeDriver's port", || {
            let said = driver.output();
            let (_, rest) = said.split_once("started successfully on port ")?;
            rest.split_once('.').map(|(port, _)| port.to_owned())
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let profile = folder.path().join("profile");
        let Value::Object(wanted) = json!({
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
                format!("--user-data-dir={}", profile.display()),
                format!("--window-size={},{}", WINDOW.0, WINDOW.1),
            ] },
        }) else {
            unreachable!("it is an object")
        };
        let client = runtime.block_on(async {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            let address = format!("http://127.0.0.1:{port}");
            tokio::time::timeout(PATIENCE, builder.capabilities(wanted).connect(&address)).await
        });
        let client = client.expect("the browser starts in time").unwrap();
        Some(Self { client, runtime, _driver: driver, _folder: folder })
    }

    fn wait<T>(&self, command: impl Future<Output = Result<T, CmdError>>) -> T {
        let outcome = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, command).await });
        outcome.expect("the browser answers in time").unwrap()
    }

    pub(crate) fn open(&self, address: &str) {
        self.wait(self.client.goto(address));
    }

    pub(crate) fn reload(&self) {
        self.wait(self.client.refresh());
    }

    /// Runs a script; returns its result.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.wait(self.client.execute(script, Vec::new()))
    }

    /// The visible text of the first element that a selector finds; empty if there is none.
    pub(crate) fn text(&self, selector: &str) -> String {
        self.texts(selector).into_iter().next().unwrap_or_default()
    }

    /// The texts of all elements that a selector finds.
    pub(crate) fn texts(&self, selector: &str) -> Vec<String> {
        let found = format!("[...document.querySelectorAll({})]", json!(selector));
        // Text in SVG has no innerText.
        let script = format!("return {found}.map(element => element.innerText ?? element.textContent);");
        serde_json::from_value(self.run(&script)).unwrap()
    }

    /// Clicks the first element that a selector finds.
    pub(crate) fn click(&self, selector: &str) {
        self.with_element(selector, async |element| element.click().await);
    }

    /// Types into the first element that a selector finds.
    pub(crate) fn write(&self, selector: &str, text: &str) {
        self.with_element(selector, async |element| element.send_keys(text).await);
    }

    /// Acts on an element, and repeats that if the page has just redrawn it.
    fn with_element(&self, selector: &str, act: impl AsyncFn(Element) -> Result<(), CmdError>) {
        self.eventually(&format!("{selector} to stay for a moment"), |browser| {
            let acting = async {
                match act(browser.client.find(Locator::Css(selector)).await?).await {
                    Err(error) if error.is_stale_element_reference() => Ok(None),
                    outcome => outcome.map(Some),
                }
            };
            browser.wait(acting)
        });
    }

    /// Waits until `holds` returns a value for what the page shows.
    pub(crate) fn eventually<T>(&self, what: &str, mut holds: impl FnMut(&Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(outcome) = holds(self) {
                return outcome;
            }
            let shown = || self.text("body");
            assert!(start.elapsed() < PATIENCE, "waited for {what} for {PATIENCE:?}; the page:\n{}", shown());
            std::thread::sleep(POLL_PAUSE);
        }
    }

    /// Sets the preferred colour scheme: "light" or "dark".
    pub(crate) fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// Sets the width of the window; `None` resets it.
    pub(crate) fn resize(&self, width: Option<u32>) {
        self.wait(self.client.set_window_size(width.unwrap_or(WINDOW.0), WINDOW.1));
    }

    /// Saves a picture of the whole page at the window's width.
    pub(crate) fn picture(&self, file: &Path) {
        let size = self.run("return [innerWidth, document.documentElement.scrollHeight];");
        let [width, height] = [0, 1].map(|i| size[i].as_u64().unwrap() as u32);
        self.wait(self.client.set_window_size(width, height));
        let picture = self.wait(self.client.screenshot());
        self.resize(Some(width));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, picture).unwrap();
    }

    /// Accessibility violations that axe-core finds on the page and rates serious or critical.
    pub(crate) fn barriers(&self) -> Vec<String> {
        let axe = tests::root().join("target/venv/axe.min.js");
        let axe = std::fs::read_to_string(&axe)
            .unwrap_or_else(|error| panic!("{}: {error}; cargo xtask test installs it", axe.display()));
        self.run(&axe);
        let script =
            "const done = arguments[0]; axe.run().then(r => done(r.violations), e => done(String(e)));";
        let found = self.wait(self.client.execute_async(script, Vec::new()));
        let found = found.as_array().unwrap_or_else(|| panic!("axe-core: {found}")).iter();
        let serious = found.filter(|one| matches!(one["impact"].as_str(), Some("serious" | "critical")));
        serious.map(|one| format!("{}: {} {}", one["id"], one["help"], one["nodes"][0]["html"])).collect()
    }

    /// The browser's log, such as violations of the page's policy.
    pub(crate) fn messages(&self) -> Value {
        self.issue("se/log", json!({ "type": "browser" }))
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.issue("goog/cdp/execute", json!({ "cmd": command, "params": parameters }))
    }

    fn issue(&self, path: &'static str, body: Value) -> Value {
        self.wait(self.client.issue_cmd(Extension { path, body }))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Otherwise Chromium would outlive ChromeDriver. If it does not answer, nothing more can be done.
        let close = self.client.clone().close();
        let _ = self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), close).await });
    }
}

/// A command that is an extension of ChromeDriver.
#[derive(Debug)]
struct Extension {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}
