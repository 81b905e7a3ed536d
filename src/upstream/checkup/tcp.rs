//! The TCP health check: a connection that opens is health enough.

use tokio::io::AsyncWriteExt;

use super::Ill;
use super::dial::Reached;

pub(super) async fn probe(mut reached: Reached) -> Result<(), Ill> {
    // Over TLS a goodbye, so that nobody at the other side takes the end for a fault. It may have gone already.
    let _ = reached.stream.shutdown().await;
    Ok(())
}
