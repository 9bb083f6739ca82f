//! Hosts with unusual login shells, startup files, SSH servers and mounts, and users with unusual SSH configurations. Each
//! works, or is refused with a remedy before anything is changed.

use std::path::PathBuf;
use std::process::Command;

use tests::stack::Stack;

const JOB: [&str; 3] = ["INPUT_LINES=2000", "--workers", "1"];

/// Root's home folder of a host.
fn home(stack: &Stack, host: &str) -> PathBuf {
    stack.lab.folder().join(host).join("home")
}

fn write_startup(stack: &Stack, file: &str, text: &str) {
    for host in stack.lab.values("name") {
        let path = home(stack, &host).join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

fn remove_startup(stack: &Stack, file: &str) {
    for host in stack.lab.values("name") {
        std::fs::remove_file(home(stack, &host).join(file)).unwrap();
    }
}

/// Runs a job and the other commands on hosts that are up.
fn check_commands(stack: &Stack, what: &str) {
    let said = stack.run("run-cluster", &JOB);
    assert!(said.contains("rows out   2,000"), "{what}: {said}");
    let said = stack.run("logs", &["h2", "-n", "1"]);
    assert!(
        said.contains("INFO classifier: done: 2000 rows ") && said.ends_with("worker=initializer\n"),
        "{what}: {said}"
    );
    let json = stack.run("status", &["--json"]);
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(status[0]["status"]["summary"]["rows"], 2000, "{what}");
    assert_eq!(String::from_utf8(stack.results()).unwrap().lines().count(), 2000, "{what}");
}

#[test]
fn noisy_startup_files_do_no_harm() {
    let Some(stack) = Stack::new("noisy_startup_files_do_no_harm", "2") else {
        return;
    };
    let noise = "echo Welcome\necho 'and to you' >&2\nprintf 'no newline'\n";
    write_startup(&stack, ".bashrc", noise);
    stack.up(&[]);
    for startup in [
        noise,
        "cd /tmp; CDPATH=/; export CDPATH; HOME=/nowhere; export HOME\n",
        "set -eu; umask 077; alias cd=false; PATH=/nowhere; export PATH\n",
        "cd /; yes | head -n 20000; trap 'echo leaving' EXIT\n",
    ] {
        write_startup(&stack, ".bashrc", startup);
        check_commands(&stack, startup);
    }
    write_startup(&stack, ".bashrc", noise);
    // Shipping works with the noise as well.
    stack.run("down", &["--force"]);
    stack.up(&[]);
    remove_startup(&stack, ".bashrc");
    stack.down();
}

#[test]
fn an_sftp_server_behind_a_noisy_shell_works() {
    let Some(stack) = Stack::new("an_sftp_server_behind_a_noisy_shell_works", "2") else {
        return;
    };
    let hosts = with_sshd(&stack, 2200, "-o 'Subsystem=sftp /usr/lib/openssh/sftp-server'");
    for startup in ["echo Welcome; cd /\n", "cd /tmp\n"] {
        write_startup(&stack, ".bashrc", startup);
        stack.run("up", &["--hosts", &hosts]);
        check_commands(&stack, startup);
        stack.run("down", &[]);
    }
    remove_startup(&stack, ".bashrc");
}

#[test]
fn tcsh_and_fish_work_as_login_shells() {
    const NAME: &str = "tcsh_and_fish_work_as_login_shells";
    for shell in ["tcsh", "fish"] {
        if Command::new(shell).args(["-c", "true"]).output().is_err() {
            return tests::skip(NAME, &format!("there is no {shell}; on Debian: apt-get install {shell}"));
        }
    }
    let Some(stack) = Stack::new(NAME, "2") else { return };
    let startups = [
        (
            "tcsh",
            ".cshrc",
            "echo hi\ncd /\nalias cd echo\nalias rm 'rm -i'\nset prompt='a! '\nsetenv PATH /nowhere\n",
        ),
        ("fish", ".config/fish/config.fish", "echo fishy\ncd /\nset -gx HOME /nowhere\n"),
    ];
    for (shell, file, startup) in startups {
        write_startup(&stack, file, startup);
        ["h1", "h2"].iter().for_each(|host| stack.lab.set_shell(host, &format!("/usr/bin/{shell}")));
        stack.up(&[]);
        check_commands(&stack, shell);
        stack.run("down", &[]);
        remove_startup(&stack, file);
    }
}

#[test]
fn a_login_shell_that_runs_no_commands_is_refused_with_a_remedy() {
    let Some(stack) = Stack::new("a_login_shell_that_runs_no_commands_is_refused_with_a_remedy", "1") else {
        return;
    };
    let refused = |what: &str| {
        let said = stack.refused("up", &["--hosts", &stack.hosts_file()]);
        assert!(said.contains("connecting to h1"), "{what}: {said}");
        assert!(said.contains("the login shell exited before it ran a command"), "{what}: {said}");
        assert!(said.contains("The user needs a shell that runs commands"), "{what}: {said}");
        assert!(!home(&stack, "h1").join(".provisioned-classifier").exists(), "{what}");
        said
    };
    for startup in ["exit\n", "echo bye; exit 3\n", "exec sh\n"] {
        write_startup(&stack, ".bashrc", startup);
        let said = refused(startup);
        assert_eq!(startup.contains("bye"), said.contains("it printed: bye"), "{said}");
    }
    remove_startup(&stack, ".bashrc");
    stack.lab.set_shell("h1", "/usr/sbin/nologin");
    let said = refused("nologin");
    assert!(said.contains("it printed: This account is currently not available"), "{said}");
    stack.lab.set_shell("h1", "/bin/false");
    refused("false");
}

/// Starts an sshd with these options at another port of each host; returns a hosts file with that port.
fn with_sshd(stack: &Stack, port: u16, options: &str) -> String {
    stack.lab.values("name").iter().for_each(|host| stack.lab.start_sshd(host, port, options));
    let file = std::fs::read_to_string(stack.hosts_file()).unwrap();
    let path = stack.path(&format!("hosts.{port}.toml"));
    std::fs::write(&path, file.replace("\naddress", &format!("\nport = {port}\naddress"))).unwrap();
    path.display().to_string()
}

#[test]
fn an_sshd_with_too_few_sessions_or_without_sftp_is_refused_before_anything_is_shipped() {
    let Some(stack) = Stack::new(
        "an_sshd_with_too_few_sessions_or_without_sftp_is_refused_before_anything_is_shipped",
        "2",
    ) else {
        return;
    };
    let sftp = "-o 'Subsystem=sftp internal-sftp'";
    for (port, options, remedies) in [
        (
            2201,
            format!("{sftp} -o MaxSessions=1"),
            ["opens no further session", "set MaxSessions there to 10"],
        ),
        (
            2203,
            format!("{sftp} -o MaxSessions=3"),
            ["opens no further session", "set MaxSessions there to 10"],
        ),
        (2204, String::new(), ["it has no SFTP subsystem", "Subsystem sftp internal-sftp"]),
        (2205, "-o 'Subsystem=sftp /nowhere/sftp'".into(), ["it has no SFTP subsystem", "Subsystem sftp"]),
    ] {
        let hosts = with_sshd(&stack, port, &options);
        let said = stack.refused("up", &["--hosts", &hosts]);
        for words in remedies.into_iter().chain([" on h1: "]) {
            assert!(said.contains(words), "{options}: {words:?} is not in {said}");
        }
        assert!(!home(&stack, "h1").join(".provisioned-classifier").exists(), "{options}");
        assert!(!stack.path("inventory.toml").exists(), "{options}");
    }
    // Four sessions are the minimum.
    let hosts = with_sshd(&stack, 2210, &format!("{sftp} -o MaxSessions=4"));
    stack.run("up", &["--hosts", &hosts]);
    check_commands(&stack, "four sessions");
    stack.run("down", &[]);
}

#[test]
fn a_folder_without_execution_is_refused_with_its_mount() {
    let Some(stack) = Stack::new("a_folder_without_execution_is_refused_with_its_mount", "2") else { return };
    let folder = home(&stack, "h2").join(".provisioned-classifier");
    let remount = |place: &str| {
        stack
            .lab
            .inside("h2", &format!("mount --bind {place} {place} && mount -o remount,bind,noexec {place}"));
        let said = stack.refused("up", &["--hosts", &stack.hosts_file()]);
        let wanted = format!("h2 cannot run programs from its home folder: {place} is mounted with noexec");
        assert!(said.contains(&wanted), "{said}");
        stack.lab.inside("h2", &format!("umount {place}"));
    };
    remount("/root");
    assert!(!folder.exists());
    // Only the application's folder is mounted with noexec.
    std::fs::create_dir(&folder).unwrap();
    remount("/root/.provisioned-classifier");
    assert!(std::fs::read_dir(&folder).unwrap().next().is_none());
    // noexec on /tmp does not matter.
    stack.lab.inside("h2", "mount --bind /tmp /tmp && mount -o remount,bind,noexec /tmp");
    stack.up(&[]);
    check_commands(&stack, "noexec /tmp");
    stack.run("down", &[]);
}

#[test]
fn the_users_ssh_configuration_and_tmpdir_do_not_matter() {
    let Some(stack) = Stack::new("the_users_ssh_configuration_and_tmpdir_do_not_matter", "2") else {
        return;
    };
    // Options that users set for their own logins. The port of the forward is in use.
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let config = format!(
        "Host *\n  LocalForward {} 127.0.0.1:22\n  RemoteForward 22 127.0.0.1:22\n  DynamicForward {}\n  \
         ExitOnForwardFailure yes\n  RemoteCommand sleep 100\n  RequestTTY force\n  ControlMaster auto\n  \
         ControlPath /nowhere/%h\n  ForwardX11 yes\n  PermitLocalCommand yes\n  LocalCommand touch {}\n  LogLevel QUIET\n",
        taken.local_addr().unwrap(),
        taken.local_addr().unwrap().port(),
        stack.path("local-command").display()
    );
    std::fs::write(stack.path("ssh_config"), config).unwrap();
    stack.up(&["--ssh-config", "ssh_config"]);
    check_commands(&stack, "a configuration");
    assert!(!stack.path("local-command").exists());
    let said = stack.run("ssh", &["h2", "--", "echo", "here"]);
    assert!(said.contains("here"), "{said}");
    let long = stack.path(&"long".repeat(40));
    for folder in [long, stack.path("a b%h $x")] {
        std::fs::create_dir(&folder).unwrap();
        let said = stack.start_with("status", &[], &[("TMPDIR", folder.to_str().unwrap())]).success();
        assert!(said.contains("job: done, 2,000 rows"), "{said}");
        let said = stack.start_with("run-cluster", &JOB, &[("TMPDIR", folder.to_str().unwrap())]).success();
        assert!(said.contains("rows out   2,000"), "{said}");
        assert!(std::fs::read_dir(&folder).unwrap().next().is_none(), "nothing is left in it");
    }
    stack.down();
}
