//! A member's side of the control plane, from its join to the end of its generation. Pure: turns events into actions.

use anyhow::anyhow;
use protocol::Temporary;
use protocol::handshake::ControlMessage;

use super::Formation;

/// What happens to a member.
#[derive(Debug)]
pub enum Event {
    /// The initializer has sent a message other than a heartbeat.
    Message(ControlMessage),
    /// This process has made its data connections, and the receiver has admitted it.
    Formed,
    /// The connection to the initializer has ended, for this reason.
    Lost(anyhow::Error),
}

/// What the caller must do.
#[derive(Debug)]
pub enum Action {
    /// Make the data connections of this generation.
    Connect(Formation),
    /// Send the initializer a message.
    Send(ControlMessage),
    /// Run the dataflow.
    Start,
    /// End this process. If the error is [`Temporary`], the process joins the next generation when it is restarted.
    End(anyhow::Error),
}

/// A member's phase in its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits until all processes have joined.
    Joined,
    /// Makes its data connections.
    Forming,
    /// Waits until all members have formed.
    Formed,
    Running,
    Ended,
}

/// A member of one generation.
#[derive(Debug)]
pub struct Participant {
    /// The initializer's name, for errors.
    initializer: String,
    phase: Phase,
}

impl Participant {
    /// A process that has sent its join to this initializer.
    pub fn new(initializer: String) -> Self {
        Self { initializer, phase: Phase::Joined }
    }

    /// Handles an event.
    pub fn handle(&mut self, event: Event) -> Option<Action> {
        let (phase, action) = match (self.phase, event) {
            (Phase::Ended, _) => return None,
            (Phase::Joined, Event::Message(ControlMessage::Form { generation, process, members })) => {
                (Phase::Forming, Action::Connect(Formation { generation, process, members }))
            }
            (Phase::Forming, Event::Formed) => (Phase::Formed, Action::Send(ControlMessage::Formed)),
            (Phase::Formed, Event::Message(ControlMessage::Start)) => (Phase::Running, Action::Start),
            (_, Event::Message(ControlMessage::Shutdown)) => {
                self.end(anyhow!("the cluster was asked to shut down"))
            }
            (_, Event::Message(other)) => self.end(anyhow!("an unexpected message: {other:?}")),
            (_, Event::Lost(error)) => {
                // A refusal says itself whether it is temporary.
                let error = protocol::handshake::unless_refused(error, Temporary("the cluster is lost"));
                self.end(error)
            }
            (_, Event::Formed) => self.end(anyhow!("formed before the initializer asked for it")),
        };
        self.phase = phase;
        Some(action)
    }

    fn end(&self, error: anyhow::Error) -> (Phase, Action) {
        (Phase::Ended, Action::End(error.context(self.initializer.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form() -> Event {
        Event::Message(ControlMessage::Form { generation: 3, process: 1, members: Vec::new() })
    }

    fn end(action: Option<Action>) -> (String, bool) {
        match action {
            Some(Action::End(error)) => (format!("{error:#}"), error.is::<Temporary>()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_member_forms_and_starts_at_the_initializers_messages() {
        let mut member = Participant::new("i".into());
        assert!(
            matches!(member.handle(form()), Some(Action::Connect(formation)) if formation.generation == 3)
        );
        assert!(matches!(member.handle(Event::Formed), Some(Action::Send(ControlMessage::Formed))));
        assert!(matches!(member.handle(Event::Message(ControlMessage::Start)), Some(Action::Start)));
        let (words, again) = end(member.handle(form()));
        assert!(words.starts_with("i: an unexpected message: Form") && !again, "{words}");
        assert!(member.handle(Event::Formed).is_none(), "it has ended");
    }

    #[test]
    fn losing_the_initializer_is_temporary_and_a_shutdown_is_final() {
        let mut member = Participant::new("i".into());
        member.handle(form());
        let (words, again) = end(member.handle(Event::Lost(anyhow!("silent"))));
        assert_eq!((words.as_str(), again), ("i: the cluster is lost: silent", true));
        let mut member = Participant::new("i".into());
        let (words, again) = end(member.handle(Event::Message(ControlMessage::Shutdown)));
        assert_eq!((words.as_str(), again), ("i: the cluster was asked to shut down", false));
        let mut early = Participant::new("i".into());
        early.handle(form());
        assert!(
            end(early.handle(Event::Message(ControlMessage::Start))).0.contains("unexpected message: Start")
        );
    }
}
