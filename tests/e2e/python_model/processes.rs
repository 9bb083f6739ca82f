//! Processes that a model starts, and deadlines that hold despite them.

use std::io::Read;
use std::os::unix::net::UnixListener;

use super::job::Job;

/// A model that executes a statement for row 7, and then exits.
fn starts(what: &str) -> Job {
    let code = format!(
        "import os, signal, socket, subprocess, sys, time\n\
         def double_fork():\n    \
            if os.fork() == 0:\n        os.setsid()\n        \
            if os.fork() == 0:\n            time.sleep(1000)\n        \
            os._exit(0)\n    \
            os.wait()\n\
         def classify_df(df):\n    \
            if '7' in df.index:\n        {what}\n        os._exit(3)\n    \
            return df.assign(CLASSIFICATION=1)\n"
    );
    Job::new(&code)
}

#[test]
fn a_dead_process_is_not_waited_for_while_its_children_hold_its_pipes() {
    for what in [
        "os.fork() == 0 and time.sleep(1000)",
        "os.fork() == 0 and (os.setsid(), time.sleep(1000))",
        "double_fork()",
        "subprocess.Popen(['sleep', '1000'], start_new_session=True, close_fds=False)",
        "subprocess.Popen(['sh', '-c', 'trap \"\" TERM HUP; setsid sleep 1000 & sleep 1000'], env={'TESTS_MARK': \
         os.environ['TESTS_MARK']})",
    ] {
        let job = starts(what);
        let outcome = job.run(9);
        assert!(
            outcome.reason(7).contains("the Python process died (exit status: 3)"),
            "{what}: {outcome:?}"
        );
        assert_eq!(outcome.results.len(), 8, "{what}");
        job.leaves_nothing();
    }
}

#[test]
fn a_deadline_holds_while_another_program_has_the_socket() {
    for (then, reason) in
        [("pass", "the Python process died (exit status: 3)"), ("time.sleep(1000)", "took longer than 2s")]
    {
        let job = starts(&format!(
            "peer = socket.socket(socket.AF_UNIX); peer.connect('peer'); \
             \
             opened = [fd for fd in map(int, os.listdir('/proc/self/fd')) if os.path.exists('/proc/self/fd/%d' % fd)]; \
             socket.send_fds(peer, [b'x'], opened); {then}"
        ));
        // The message waits in this socket's queue, and keeps the descriptors open.
        let listener = UnixListener::bind(job.path("peer")).unwrap();
        let job = job.args(["--box-timeout", "2"]);
        let outcome = job.run(9);
        assert!(outcome.reason(7).contains(reason), "{outcome:?}");
        assert_eq!((outcome.results.len(), outcome.rejects.len()), (8, 1));
        let mut byte = [0];
        listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
        job.leaves_nothing();
    }
}

#[test]
fn children_of_a_hanging_process_end_with_it_in_any_session() {
    let job = starts(
        "double_fork(); subprocess.Popen(['sleep', '1000'], start_new_session=True); time.sleep(1000)",
    );
    let job = job.args(["--box-timeout", "2", "--chunk-size", "3"]);
    let outcome = job.run(9);
    assert!(outcome.reason(7).contains("took longer than 2s"), "{outcome:?}");
    assert_eq!(outcome.results.len(), 8);
    job.leaves_nothing();
}

#[test]
fn all_processes_of_a_model_end_when_the_classifier_is_killed() {
    let job = starts(
        "double_fork(); subprocess.Popen(['sleep', '1000'], start_new_session=True); open('started', 'w').close(); \
         time.sleep(1000)",
    );
    let mut classifier = job.start(9);
    tests::eventually("the model to start others", || job.path("started").exists().then_some(()));
    assert!(job.left().len() >= 4);
    classifier.signal("KILL");
    classifier.wait();
    job.leaves_nothing();
}

#[test]
fn a_killed_guard_costs_one_try_and_leaves_no_process() {
    for signal in ["KILL", "TERM"] {
        let job = starts(&format!(
            "double_fork(); first = not os.path.exists('killed'); open('killed', 'w').close(); \
             first and (os.kill(os.getppid(), signal.SIG{signal}), time.sleep(1000)); return df.assign(CLASSIFICATION=2)"
        ));
        let outcome = job.run(9);
        assert_eq!((outcome.results.len(), outcome.rejects.len()), (9, 0), "{outcome:?}");
        assert!(outcome.said.contains("the guard of the Python process was killed"), "{}", outcome.said);
        job.leaves_nothing();
    }
}

#[test]
fn a_stopped_guard_delays_no_deadline() {
    let job = starts("os.kill(os.getppid(), signal.SIGSTOP); time.sleep(1000)").args(["--box-timeout", "2"]);
    let outcome = job.run(8);
    assert!(outcome.reason(7).contains("took longer than 2s"), "{outcome:?}");
    assert_eq!(outcome.results.len(), 7);
    job.leaves_nothing();
}

#[test]
fn the_memory_limit_covers_all_processes_and_counts_shared_memory_once() {
    let code = "import os, time\n\
        shared = bytearray(os.urandom(1 << 20)) * 250\n\
        def children(eat):\n    \
            for _ in range(4):\n        \
                if os.fork() == 0:\n            \
                    os.setsid()\n            \
                    mine = bytearray(os.urandom(1 << 20)) * eat\n            \
                    time.sleep(1000)\n    \
            time.sleep(1.5)\n\
        def classify_df(df):\n    \
            if '1' in df.index: children(0)\n    \
            if '2' in df.index: children(250)\n    \
            return df.assign(CLASSIFICATION=1)\n";
    let job = Job::new(code).args(["--chunk-size", "1", "--box-memory", "800"]);
    let outcome = job.run(4);
    assert!(outcome.reason(2).contains("took more than 800 MiB of memory"), "{outcome:?}");
    assert_eq!((outcome.results.len(), outcome.rejects.len()), (3, 1), "{outcome:?}");
    job.leaves_nothing();
}
