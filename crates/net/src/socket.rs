//! Connecting and listening, with deadlines, and with errors that name the purpose and the address.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use protocol::Temporary;

/// Connects to `what` at `address` (`HOST:PORT`), and retries until it succeeds or `limit` has passed.
///
/// # Errors
/// Name `what`, the address, the limit and the last cause.
pub fn connect(what: &str, address: &str, limit: Duration) -> anyhow::Result<TcpStream> {
    connect_from(None, what, address, limit)
}

/// Like [`connect`], from a given address of this machine.
///
/// # Errors
/// Those of [`connect`].
pub fn connect_from(
    from: Option<&str>,
    what: &str,
    address: &str,
    limit: Duration,
) -> anyhow::Result<TcpStream> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(5);
    loop {
        let error = match attempt(from, address, deadline) {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        if Instant::now() + pause >= deadline {
            return Err(error)
                .with_context(|| format!("connecting to {what} at {address}: no success within {limit:?}"));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

fn attempt(from: Option<&str>, address: &str, deadline: Instant) -> anyhow::Result<TcpStream> {
    let from = from.map(resolve).transpose()?;
    let mut last = None;
    for target in address.to_socket_addrs().with_context(|| format!("looking up {address}"))? {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match connect_once(from, target, left) {
            // If nothing listens at a port of this machine, the system may give that port to the connecting socket, which
            // then connects to itself.
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => {
                last = Some(io::Error::from(io::ErrorKind::ConnectionRefused));
            }
            Ok(stream) => {
                tune(&stream)?;
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error.into()),
        None => bail!("{address} has no address"),
    }
}

fn connect_once(from: Option<SocketAddr>, target: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect_timeout(&target, limit) };
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&target.into(), limit)?;
    Ok(socket.into())
}

fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let mut found = address.to_socket_addrs().with_context(|| format!("looking up {address}"))?;
    found.next().with_context(|| format!("{address} has no address"))
}

/// What to do if another program has the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenTaken {
    Fail,
    /// Take any free port; the ready file says which.
    AnyPort,
}

/// Listens at `address` for `what`.
///
/// # Errors
/// Name `what` and the address, and say what to do if the port is taken.
pub fn listen(what: &str, address: &str, when_taken: WhenTaken) -> anyhow::Result<TcpListener> {
    bind(what, address, when_taken)?.listen()
}

/// Like [`listen`], but a restarted program listens at the address it had `before`, since other programs know that one.
///
/// # Errors
/// Those of [`listen`].
pub fn listen_again(
    what: &str,
    before: Option<SocketAddr>,
    address: &str,
    when_taken: WhenTaken,
) -> anyhow::Result<TcpListener> {
    bind_again(what, before, address, when_taken)?.listen()
}

/// Like [`bind`], but a restarted program binds the address it had `before`.
///
/// # Errors
/// Those of [`bind`].
pub fn bind_again(
    what: &str,
    before: Option<SocketAddr>,
    address: &str,
    when_taken: WhenTaken,
) -> anyhow::Result<Bound> {
    let Some(before) = before else { return bind(what, address, when_taken) };
    let (what, address) = (what.to_owned(), before.to_string());
    // The supervisor has reserved the port, so that no other program can take it in between.
    match shared(before) {
        Ok(socket) => Ok(Bound { socket, what, address }),
        Err(error) => {
            Err(explain(error, &what, &address).context(Temporary("listening at the earlier address")))
        }
    }
}

/// Reserves a port, without listening at it, for a program that will be restarted.
#[derive(Debug)]
pub struct Reserved {
    _socket: Socket,
}

/// Reserves a port for as long as the value lives. Only [`bind_again`] can take it meanwhile; other programs find it taken.
///
/// # Errors
/// The port is taken.
pub fn reserve(address: SocketAddr) -> io::Result<Reserved> {
    Ok(Reserved { _socket: shared(address)? })
}

/// A socket that shares its port only with sockets of this kind that belong to the same user.
fn shared(address: SocketAddr) -> io::Result<Socket> {
    let bound = |reuse: bool| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_port(true)?;
        socket.set_reuse_address(reuse)?;
        socket.bind(&address.into())?;
        // With this option, other sockets that set it could bind the port, too.
        socket.set_reuse_address(false)?;
        Ok(socket)
    };
    // Connections of the dead program may still be closing, which takes the reuse of addresses.
    bound(false).or_else(|_| bound(true))
}

/// A bound address that does not listen yet: connections to it are refused.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    what: String,
    address: String,
}

/// Binds `address` for `what`, without listening yet.
///
/// # Errors
/// Those of [`listen`].
pub fn bind(what: &str, address: &str, when_taken: WhenTaken) -> anyhow::Result<Bound> {
    let target = resolve(address).with_context(|| format!("listening for {what}"))?;
    let bound = |target: SocketAddr, reuse: bool| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(reuse)?;
        socket.bind(&target.into())?;
        Ok(socket)
    };
    let is_taken = |outcome: &io::Result<Socket>| {
        outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    let mut socket = bound(target, false);
    if is_taken(&socket) {
        socket = match when_taken {
            WhenTaken::AnyPort => bound(SocketAddr::new(target.ip(), 0), false),
            // A port whose last connections are still closing can be bound only with the reuse of addresses. Then two programs
            // that do not listen yet can both bind it, and the second one fails when it listens. So `AnyPort` does without.
            WhenTaken::Fail => bound(target, true),
        };
    }
    let socket = socket.map_err(|e| explain(e, what, address))?;
    Ok(Bound { socket, what: what.to_owned(), address: address.to_owned() })
}

impl Bound {
    /// Starts listening.
    ///
    /// # Errors
    /// Those of [`listen`].
    pub fn listen(self) -> anyhow::Result<TcpListener> {
        // Connections inherit this. Without it, closing connections would block the next program that binds the port.
        let listening = self.socket.set_reuse_address(true).and_then(|()| self.socket.listen(1024));
        listening.map_err(|e| explain(e, &self.what, &self.address))?;
        Ok(self.socket.into())
    }
}

/// Checks that an argument has the form `HOST:PORT`.
///
/// # Errors
/// Show the form.
pub fn host_and_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("it should be HOST:PORT, as in 127.0.0.1:8888 or [::1]:8888".to_owned()),
    }
}

fn explain(error: io::Error, what: &str, address: &str) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            ": another program has this port; choose another (port 0 takes any free one)"
        }
        io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
        _ => "",
    };
    anyhow::Error::from(error).context(format!("listening for {what} at {address}{hint}"))
}

/// Accepts the next connection and prepares it; failures of a single connection are skipped. When this process has no free
/// descriptor, calls `make_room` and tries again.
///
/// # Errors
/// The listener itself is broken.
pub fn accept(listener: &TcpListener, mut make_room: impl FnMut()) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => match tune(&stream) {
                Ok(()) => return Ok((stream, peer)),
                // The peer has already left.
                Err(_) => continue,
            },
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::Interrupted
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                ) => {}
            // No descriptor or memory is free now; connections that end will free some.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc_errors::EMFILE | libc_errors::ENFILE | libc_errors::ENOMEM)
                ) =>
            {
                make_room();
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(e),
        }
    }
}

/// The error numbers of [`accept`] that have no [`io::ErrorKind`]; the same on Linux and macOS.
mod libc_errors {
    pub(super) const ENOMEM: i32 = 12;
    pub(super) const ENFILE: i32 = 23;
    pub(super) const EMFILE: i32 = 24;
}

/// Sends small frames at once, and probes for peers whose host is gone.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// Makes writes fail if the peer does not read within `limit`, or its host does not acknowledge for a minute. For connections
/// with short messages that the peer reads at once. Without this, writing to a vanished host fails only after a quarter of an
/// hour (the probes of [`accept`] work only while nothing is written).
///
/// # Errors
/// The socket refuses an option.
pub fn limit_writes(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    stream.set_write_timeout(Some(limit))?;
    #[cfg(target_os = "linux")]
    SockRef::from(stream).set_tcp_user_timeout(Some(Duration::from_secs(60)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_connection_names_the_peer_the_address_and_the_limit() {
        let bound = bind("it", "127.0.0.1:0", WhenTaken::Fail).unwrap();
        let address = bound.socket.local_addr().unwrap().as_socket().unwrap().to_string();
        let error = connect("the receiver", &address, Duration::from_millis(30)).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains(&format!("connecting to the receiver at {address}: no success within 30ms")),
            "{text}"
        );
    }

    #[test]
    fn a_connection_can_come_from_a_given_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let stream = connect_from(Some("127.0.0.2:0"), "it", &target, Duration::from_secs(5)).unwrap();
        assert_eq!(stream.local_addr().unwrap().ip().to_string(), "127.0.0.2");
        assert_eq!(accept(&listener, || {}).unwrap().1, stream.local_addr().unwrap());
    }

    #[test]
    fn a_peer_that_does_not_read_is_an_error_of_the_stream() {
        use std::io::Write;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut stream = accept(&listener, || {}).unwrap().0;
        limit_writes(&stream, Duration::from_millis(100)).unwrap();
        // Writes until all buffers are full.
        let error = std::iter::repeat_with(|| stream.write_all(&[0; 1 << 16])).find_map(Result::err).unwrap();
        assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
    }

    #[test]
    fn only_the_program_that_had_a_reserved_port_can_take_it() {
        let first = listen("tests", "127.0.0.1:0", WhenTaken::Fail).unwrap();
        let address = first.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (served, _) = first.accept().unwrap();
        drop((first, served));
        let reserved = reserve(address).unwrap();
        assert!(listen("tests", &address.to_string(), WhenTaken::Fail).is_err());
        let again = listen_again("tests", Some(address), "127.0.0.1:0", WhenTaken::Fail).unwrap();
        assert!(listen("tests", &address.to_string(), WhenTaken::Fail).is_err());
        // The listening socket gets all connections.
        for _ in 0..20 {
            drop(TcpStream::connect(address).unwrap());
            again.accept().unwrap();
        }
        drop((again, client, reserved));
        listen("tests", &address.to_string(), WhenTaken::Fail).unwrap();
    }

    #[test]
    fn a_taken_port_is_an_error_or_another_port_is_used() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = bind("rows", "127.0.0.1:0", WhenTaken::Fail).unwrap();
        let not_listening = bound.socket.local_addr().unwrap().as_socket().unwrap();
        for taken in [listening.local_addr().unwrap(), not_listening] {
            let error = bind("rows", &taken.to_string(), WhenTaken::Fail).unwrap_err();
            assert!(error.to_string().contains("another program has this port"), "{error:#}");
            let other = listen("rows", &taken.to_string(), WhenTaken::AnyPort).unwrap().local_addr().unwrap();
            assert!(other != taken && other.ip() == taken.ip());
        }
    }

    #[test]
    fn a_port_whose_connections_have_just_ended_is_free() {
        let listener = listen("rows", "127.0.0.1:0", WhenTaken::Fail).unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        // The side that closes first keeps the connection for a while.
        drop(accept(&listener, || {}).unwrap());
        drop((client, listener));
        listen("rows", &address.to_string(), WhenTaken::Fail).unwrap();
    }

    #[test]
    fn an_address_needs_a_host_and_a_port() {
        for good in ["localhost:8888", "127.0.0.1:0", "[::1]:9999"] {
            assert_eq!(host_and_port(good).unwrap(), good);
        }
        for bad in ["localhost", "127.0.0.1", ":8888", "host:port", "host:70000", ""] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }
}
