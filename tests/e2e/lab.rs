//! Hosts on this machine, each with a real sshd.

use std::process::Command;

use tests::lab::Lab;

#[test]
fn hosts_come_up_answer_and_leave_no_trace() {
    let Some(lab) = Lab::up("hosts_come_up_answer_and_leave_no_trace", "2") else { return };
    let addresses = lab.values("address");
    assert_eq!((lab.values("name"), addresses.len()), (vec!["h1".to_owned(), "h2".to_owned()], 2));
    let known = lab.folder().join("known_hosts");
    let keys: Vec<_> = (1..=2)
        .map(|i| {
            let key = std::fs::read_to_string(lab.folder().join(format!("h{i}/host_key.pub"))).unwrap();
            format!("{} {key}", addresses[i - 1])
        })
        .collect();
    std::fs::write(&known, keys.concat()).unwrap();
    for (i, address) in addresses.iter().enumerate() {
        // Each host has its own name and home folder.
        let output = lab.ssh(address, &known, "hostname; touch mine; ls");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, format!("h{}\nmine\n", i + 1), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(lab.folder().join(format!("h{}/home/mine", i + 1)).exists());
    }
    // Hosts reach each other by their addresses.
    let other =
        lab.ssh(&addresses[0], &known, &format!("exec 3<>/dev/tcp/{}/22; head -c 4 <&3", addresses[1]));
    assert_eq!(other.stdout, b"SSH-", "{}", String::from_utf8_lossy(&other.stderr));

    let down = lab.xtask(&["down"]);
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    assert!(!lab.folder().exists());
    let namespaces = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&namespaces.stdout).contains(&lab.bridge()));
    tests::eventually("the cables to be gone", || {
        let devices = std::fs::read_dir("/sys/class/net").unwrap().flatten();
        let ours = devices.filter(|device| device.file_name().to_string_lossy().starts_with(&lab.bridge()));
        (ours.count() == 0).then_some(())
    });
}
