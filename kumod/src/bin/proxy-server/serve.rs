//! A listener: accepts clients, as many as there is room for, and starts a session for each. Invariant: an error of accepting ends nothing;
//! once the process stops, nobody is accepted any more.
use super::{Proxy, session};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;

/// Clients of one listener at a time; more wait in the kernel's line.
const CLIENTS: usize = 20_000;
const BACKLOG: u32 = 1024;
/// After an error of accepting, which is want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listening {
    pub fn at(address: SocketAddr) -> Result<Listening, String> {
        let listen = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(BACKLOG)?;
            let address = listener.local_addr()?;
            Ok(Listening { listener, address })
        };
        listen().map_err(|error: std::io::Error| {
            format!("--listen {address}: {error}: choose an address of this host and a free port")
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn run(self, proxy: Arc<Proxy>, mut stopping: watch::Receiver<bool>) {
        let room = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let permit = room.clone().acquire_owned().await.expect("nobody closes it");
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stops| *stops) => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((client, from)) => {
                    let (proxy, alive) = (proxy.clone(), stopping.clone());
                    tokio::spawn(async move {
                        session::run(&proxy, client, from).await;
                        drop((permit, alive));
                    });
                }
                Err(error) => {
                    tracing::error!("accept on {}: {error}", self.address);
                    sleep(PAUSE).await;
                }
            }
        }
    }
}
