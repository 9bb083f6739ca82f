use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn member(name: &str) -> Member {
    Member {
        name: name.into(),
        data: "0.0.0.0:7".into(),
        workers: 1,
        build: String::new(),
        settings: String::new(),
    }
}

fn candidate(host: u8) -> Candidate {
    let name = format!("c{host}");
    let (local, remote) = ([10, 0, 0, 100 + host].into(), [10, 0, 0, host].into());
    Candidate { member: member(&name), name, local, remote }
}

/// A coordinator of three processes whose two others have joined.
fn gathered(limit: Limit) -> Coordinator {
    let mut coordinator = Coordinator::new(member("i"), 3, limit, 60 * SECOND);
    assert_eq!(text(&coordinator.handle(Event::Join(1, candidate(1)), SECOND)), "");
    assert_eq!(text(&coordinator.handle(Event::Join(2, candidate(2)), SECOND)), "number");
    coordinator
}

fn text(actions: &[Action]) -> String {
    let word = |action: &Action| match action {
        Action::Refuse(id, reason) => format!("refuse {id}: {reason:#}"),
        Action::RequestNumber => "number".into(),
        Action::Send(id, ControlMessage::Form { .. }) => format!("form {id}"),
        Action::Send(id, message) => format!("{message:?} {id}"),
        Action::Connect(formation) => format!("connect {}", formation.generation),
        Action::Start => "start".into(),
        Action::End(error) => {
            format!("{}: {error:#}", if error.is::<Temporary>() { "leave" } else { "fail" })
        }
    };
    actions.iter().map(word).collect::<Vec<_>>().join("; ")
}

#[test]
fn a_generation_starts_when_all_have_formed_and_the_initializer_too() {
    let mut coordinator = gathered(Limit::All(60 * SECOND));
    assert_eq!(text(&coordinator.handle(Event::Numbered(7), SECOND)), "form 1; form 2; connect 7");
    let formed = |id| Event::Message(id, ControlMessage::Formed);
    assert_eq!(text(&coordinator.handle(formed(1), SECOND)), "");
    assert_eq!(text(&coordinator.handle(formed(2), SECOND)), "");
    assert_eq!(text(&coordinator.handle(Event::Formed, SECOND)), "Start 1; Start 2; start");
    assert_eq!(
        text(&coordinator.handle(formed(2), SECOND)),
        "leave: a member broke the protocol: c2: an unexpected message: Formed"
    );
}

#[test]
fn members_get_addresses_at_which_they_reach_each_other() {
    let mut coordinator = gathered(Limit::All(60 * SECOND));
    let actions = coordinator.handle(Event::Numbered(7), SECOND);
    let Action::Send(2, ControlMessage::Form { process, members, .. }) = &actions[1] else {
        panic!("{}", text(&actions))
    };
    let data: Vec<_> = members.iter().map(|member| member.data.as_str()).collect();
    assert_eq!((*process, &data[..]), (2, &["10.0.0.102:7", "10.0.0.1:7", "10.0.0.2:7"][..]));
}

#[test]
fn losing_a_process_ends_the_generation_only_once_the_members_are_complete() {
    let mut coordinator = Coordinator::new(member("i"), 3, Limit::All(60 * SECOND), 60 * SECOND);
    coordinator.handle(Event::Join(1, candidate(1)), SECOND);
    assert_eq!(text(&coordinator.handle(Event::Left(1, anyhow!("silent")), SECOND)), "");
    let mut coordinator = gathered(Limit::All(60 * SECOND));
    assert_eq!(
        text(&coordinator.handle(Event::Left(1, anyhow!("silent")), SECOND)),
        "leave: a member is lost: c1: silent"
    );
    assert_eq!(text(&coordinator.handle(Event::Tick, 99 * SECOND)), "", "it has ended");
}

#[test]
fn a_cluster_that_does_not_gather_or_form_in_time_fails_and_names_the_processes() {
    let mut coordinator = Coordinator::new(member("i"), 3, Limit::All(60 * SECOND), 60 * SECOND);
    coordinator.handle(Event::Join(1, candidate(1)), SECOND);
    assert_eq!(coordinator.deadline(SECOND), Some(60 * SECOND));
    assert_eq!(
        text(&coordinator.handle(Event::Tick, 60 * SECOND)),
        "fail: waiting for 3 processes to join: after 60s there are 2: i, c1"
    );
    let mut coordinator = gathered(Limit::All(60 * SECOND));
    coordinator.handle(Event::Numbered(7), SECOND);
    coordinator.handle(Event::Message(1, ControlMessage::Formed), SECOND);
    assert_eq!(coordinator.deadline(SECOND), None, "the initializer's own waits have their own deadlines");
    coordinator.handle(Event::Formed, 2 * SECOND);
    assert_eq!(coordinator.deadline(SECOND), Some(62 * SECOND));
    assert_eq!(
        text(&coordinator.handle(Event::Tick, 62 * SECOND)),
        "fail: waiting for c2 to form: not within 60s"
    );
}

#[test]
fn a_generation_ends_for_a_missing_process_that_is_back() {
    let mut coordinator = Coordinator::new(member("i"), 3, Limit::Back(10 * SECOND), 60 * SECOND);
    coordinator.handle(Event::Join(1, candidate(1)), SECOND);
    assert_eq!(text(&coordinator.handle(Event::Tick, 10 * SECOND)), "number");
    coordinator.handle(Event::Numbered(7), 10 * SECOND);
    coordinator.handle(Event::Message(1, ControlMessage::Formed), 10 * SECOND);
    coordinator.handle(Event::Formed, 10 * SECOND);
    assert_eq!(coordinator.deadline(11 * SECOND), None);
    assert_eq!(text(&coordinator.handle(Event::Join(2, candidate(2)), 12 * SECOND)), "");
    assert_eq!(coordinator.deadline(12 * SECOND), Some(20 * SECOND));
    assert_eq!(
        text(&coordinator.handle(Event::Tick, 20 * SECOND)),
        "leave: a missing process is back: makes way for a generation with c2"
    );
}

#[test]
fn a_shutdown_request_is_passed_on_in_every_phase() {
    let stop = |mut coordinator: Coordinator| text(&coordinator.handle(Event::Shutdown, SECOND));
    let mut gathering = Coordinator::new(member("i"), 3, Limit::All(60 * SECOND), 60 * SECOND);
    gathering.handle(Event::Join(1, candidate(1)), SECOND);
    assert_eq!(stop(gathering), "Shutdown 1; fail: the cluster was asked to shut down");
    let complete = gathered(Limit::All(60 * SECOND));
    assert_eq!(stop(complete), "Shutdown 1; Shutdown 2; fail: the cluster was asked to shut down");
}
