//! One direction of a relay by way of a buffer, for TLS, and where splicing isn't wanted. Invariant: no more than one buffer is held, so
//! that a slow reader slows the writer down.
use crate::relay::{Broken, Progress};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const BUFFER: usize = 16 * 1024;

/// Until `from` ends, which `to` is told.
pub async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    progress: &Progress<'_>,
) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(read) => read,
            // Many peers leave TLS without saying so.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(Broken::Reading(error)),
        };
        if read == 0 {
            return to.shutdown().await.map_err(Broken::Writing);
        }
        to.write_all(&buffer[..read]).await.map_err(Broken::Writing)?;
        to.flush().await.map_err(Broken::Writing)?;
        progress.moved(read);
    }
}
