//! The Monitoring Hub of a real job.

use std::process::Command;

use protocol::VERSION;
use telemetry::view::{EventKind, Job, JobState, Liveness, Machine, Worker, WorkerDetail};
use tests::eventually;
use tests::http::{ask, get};
use tests::hub::{HOST, job, report, sample, start, view};
use tests::program::Program;

#[test]
fn the_hub_shows_the_job_and_leaves_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--classifier", "sleep:2000", "--input-lines", "6000", "--workers", "2", "--keep-hub"];
    let (mut xtask, page) = start(folder.path(), &args);
    let running = eventually("rows to move", || {
        let job = job(&page);
        let moves = job.rows.written > 0 && Some(job.rows.written) != job.rows.total;
        // The initializer and the sender may report a moment after the receiver.
        (moves && job.workers_expected == 2 && job.rows.total.is_some()).then_some(job)
    });
    assert_eq!((running.state, running.rows.total), (JobState::Running, Some(6000)), "{running:?}");
    let workers: Vec<Worker> = view(&page, "/api/v1/workers");
    let names: Vec<_> = workers.iter().map(|worker| (&*worker.name, worker.number)).collect();
    assert_eq!(names, [("initializer.0", 1), ("initializer.1", 2)]);
    let one: WorkerDetail = view(&page, "/api/v1/workers/initializer.1");
    assert_eq!(one.worker.state, Liveness::Up, "{one:?}");
    assert_eq!(get(&page, "/api/v1/workers/nobody.0", HOST).unwrap().status, 404);

    let done = eventually("the job's end", || Some(job(&page)).filter(|job| job.state == JobState::Done));
    let summary = done.summary.unwrap();
    assert_eq!((summary.rows, done.rows.written), (6000, 6000));
    // All interfaces show the same figures.
    let metrics = get(&page, "/metrics", HOST).unwrap();
    assert_eq!(sample(&metrics, "classifier_output_rows_total"), 6000.0);
    assert_eq!(sample(&metrics, "classifier_input_rows_total"), 6000.0);
    assert_eq!(sample(&metrics, r#"classifier_job_state{state="done"}"#), 1.0);
    let classified = eventually("the workers' last reports", || {
        let workers: Vec<Worker> = view(&page, "/api/v1/workers");
        (workers.iter().map(|worker| worker.rows).sum::<u64>() == 6000).then_some(workers)
    });
    assert!(classified[0].p50_ms >= 200.0, "a hundred rows take 0.2 s: {classified:?}");

    // The page stays until Ctrl-C; the report stays after that.
    assert!(xtask.is_running());
    xtask.await_output("the page stays at");
    xtask.signal("INT");
    xtask.success();
    assert!(get(&page, "/healthz", HOST).is_none(), "the hub has ended");
    let report = report(&folder.path().join("out"));
    assert_eq!((report.job.state, report.job.summary.as_ref()), (JobState::Done, Some(&summary)));
    assert!(report.history.len() > 2, "{report:?}");
    // The bottleneck is still known.
    let bottleneck = report.job.bottleneck.expect("workers that only sleep are busy");
    assert!(bottleneck.words.starts_with("all 2 workers were busy"), "{bottleneck:?}");
    let html = std::fs::read_to_string(folder.path().join("out/report.html")).unwrap();
    assert!(html.contains(&summary.sha256));
}

#[test]
fn a_restarted_hub_knows_the_progress_of_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--classifier", "sleep:2000", "--input-lines", "8000", "--workers", "2"];
    let (mut xtask, page) = start(folder.path(), &args);
    let written = |page: &str| tests::hub::ask::<Job>(page, "/api/v1/job").map(|job| job.rows.written);
    let before = eventually("rows to be written", || written(&page).filter(|written| *written > 0));
    let hubs = tests::command_lines_of(|words| {
        words.contains(folder.path().to_str().unwrap()) && words.contains("/hub --ready-file")
    });
    let [(hub, _)] = &hubs[..] else { panic!("{hubs:?}") };
    assert!(Command::new("kill").args(["-KILL", &hub.to_string()]).status().unwrap().success());
    let after = eventually("the next hub to have a report of the receiver", || {
        written(&page).filter(|written| *written >= before)
    });
    assert!(after <= 8000);
    xtask.success();
    let report = report(&folder.path().join("out"));
    assert_eq!(report.job.summary.map(|summary| summary.rows), Some(8000));
}

#[test]
fn a_hub_shows_the_description_of_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let description = r#"{"model":"python:churn","input":"orders.csv","batch_rows":500,"machines":["h1"]}"#;
    let args = ["--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", "--job", description];
    let mut hub = Program::start_server("hub", folder.path(), args);
    let described = job(&hub.address("web")).description.expect("the hub has the description");
    assert_eq!((described.model.as_deref(), described.batch_rows), (Some("python:churn"), Some(500)));
    assert_eq!((described.output, described.machines), (None, vec!["h1".to_owned()]));
    let said = Program::start("hub", folder.path(), ["--job", "{"]).failure();
    assert!(said.contains("not the JSON of a job's description"), "{said}");
}

#[test]
fn the_page_answers_only_to_names_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub =
        Program::start_server("hub", folder.path(), ["--listen", "127.0.0.1:0", "--web", "127.0.0.1:0"]);
    let page = hub.address("web");
    let answer = get(&page, "/", HOST).unwrap();
    assert!(answer.body.contains("<title>Monitoring Hub</title>"));
    assert!(answer.head.contains("content-security-policy: default-src 'none'"), "{}", answer.head);
    for foreign in ["Host: evil.example\r\n", "Host: localhost.evil.example:4000\r\n", ""] {
        for path in ["/", "/api/v1/job", "/metrics", "/healthz", "/app.js"] {
            let answer = get(&page, path, foreign).unwrap();
            assert_eq!(answer.status, 403, "{foreign:?} {path}: {answer:?}");
            assert!(answer.body.starts_with("This hub was requested by another name"), "{answer:?}");
        }
    }
    assert_eq!(ask(&page, "POST /api/v1/job HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap().status, 405);

    let said =
        Program::start("hub", folder.path(), ["--listen", "127.0.0.1:0", "--web", "0.0.0.0:0"]).failure();
    assert!(said.contains("can be reached from other machines: the page needs a token"), "{said}");
}

#[test]
fn with_a_token_the_hub_shows_others_only_a_login() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("web-token");
    protocol::token::Token::new("0123456789abcdef0123456789abcdef").save(&secret).unwrap();
    let args =
        ["--listen", "127.0.0.1:0", "--web", "0.0.0.0:0", "--web-token-file", secret.to_str().unwrap()];
    let mut hub = Program::start_server("hub", folder.path(), args);
    let page = hub.address("web").replace("0.0.0.0", "127.0.0.1");
    for path in ["/", "/api/v1/job", "/metrics", "/app.js", "/healthz"] {
        for header in [HOST, "Host: hub.example\r\nCookie: hub=guess\r\n", "Authorization: Bearer guess\r\n"]
        {
            let answer = get(&page, path, header).unwrap();
            assert_eq!(answer.status, 401, "{path} {answer:?}");
            assert!(answer.body.contains("<form method=\"post\" action=\"/login\">"), "{answer:?}");
        }
    }
    let login = |token: &str| {
        let length = "token=".len() + token.len();
        ask(
            &page,
            &format!(
                "POST /login HTTP/1.0\r\nHost: hub.example\r\nContent-Length: {length}\r\n\r\ntoken={token}"
            ),
        )
        .unwrap()
    };
    assert_eq!(login("guess").status, 401);
    let answer = login("0123456789abcdef0123456789abcdef");
    assert_eq!(answer.status, 303, "{answer:?}");
    let cookie = answer.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/"), "{cookie}");
    let cookie = format!("Host: hub.example\r\nCookie: {}\r\n", cookie.split(';').next().unwrap());
    let job: Job = serde_json::from_str(&get(&page, "/api/v1/job", &cookie).unwrap().body).unwrap();
    assert_eq!(job.state, JobState::Waiting);
    let bearer = "Host: hub.example\r\nAuthorization: Bearer 0123456789abcdef0123456789abcdef\r\n";
    assert_eq!(get(&page, "/metrics", bearer).unwrap().status, 200);
}

#[test]
fn reports_need_the_jobs_token() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("token");
    protocol::token::Token::new("the job's").save(&secret).unwrap();
    let args = ["--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", "--token-file", secret.to_str().unwrap()];
    let mut hub = Program::start_server("hub", folder.path(), args);
    let (metrics, page) = (hub.address("metrics"), hub.address("web"));
    let hello = format!(
        r#"{{"version":{VERSION},"token":"guess","role":"reporter","name":"x","machine":"m","incarnation":1}}"#
    );
    let mut stream =
        tests::send_frames(&metrics, &[&[&[protocol::frame::ENQ][..], hello.as_bytes()].concat()]);
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.contains(r#"{"refused":"the token is missing or wrong"}"#), "{answer}");
    assert_eq!(view::<Vec<Machine>>(&page, "/api/v1/machines"), []);
}

#[test]
fn model_failures_are_counted_and_listed_as_events() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("moody.py"),
        "def classify_df(df):\n    print('a line')\n    if '7' in df.index: raise KeyError('B')\n    df['CLASSIFICATION'] = 0.5\n    return df\n",
    )
    .unwrap();
    let rows: String = (0..20).map(|row| format!("{row},x\n")).collect();
    std::fs::write(folder.path().join("rows.csv"), format!("A,C\n{rows}")).unwrap();
    let input = folder.path().join("rows.csv");
    let (input, python) = (input.to_str().unwrap(), tests::python());
    let args =
        ["--model", "python:moody", "--python", python.to_str().unwrap(), "--workers", "1", "--input", input];
    let (mut xtask, _) = start(folder.path(), &args);
    xtask.success();
    let report = report(&folder.path().join("out"));
    let model = &report.job.model;
    assert_eq!(report.job.rows.rejected, 1, "{report:?}");
    assert!(model.exceptions >= 2 && model.retries >= 1 && model.splits >= 1, "{model:?}");
    assert_eq!((model.kills, model.crashes), (0, 0), "{model:?}");
    assert_eq!(model.last_failure.as_deref(), Some("KeyError: 'B'"));
    assert!(model.printed_lines > 0, "{model:?}");
    let events = report.events.iter().filter(|event| event.kind == EventKind::Model);
    let texts: Vec<_> = events.map(|event| event.text.as_str()).collect();
    assert!(texts.iter().any(|text| text.starts_with("the model in initializer failed")), "{texts:?}");
}
