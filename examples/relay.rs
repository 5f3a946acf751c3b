//! The floor for `benches/compare`: hands the bytes of each client to a server connection of its own
//! and back, on one thread, and looks at none of them.
//!
//! `relay 127.0.0.1:7432 127.0.0.1:5432` listens on the first address in front of the second.

use std::io;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let usage = || io::Error::other("usage: relay LISTEN-ADDRESS SERVER-ADDRESS");
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().ok_or_else(usage)?;
    let server: &str = arguments.next().ok_or_else(usage)?.leak();
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = relay(client, server).await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}

async fn relay(mut client: TcpStream, server: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
