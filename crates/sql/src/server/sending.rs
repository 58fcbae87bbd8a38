//! Sends rows to a client as they come: where the next one is not there yet, those before it are
//! not held back.

use std::fmt::Debug;

use futures_util::{FutureExt as _, Sink, SinkExt as _, Stream, StreamExt as _};
use pgwire::api::results::{QueryResponse, Tag};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::RowDescription;
use pgwire::messages::extendedquery::PortalSuspended;

/// The next row of an answer. What was sent before goes out if that takes a while.
pub async fn next_row<C, T>(
    client: &mut C,
    rows: &mut (impl Stream<Item = PgWireResult<T>> + Unpin),
) -> PgWireResult<Option<T>>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let row = match rows.next().now_or_never() {
        Some(row) => row,
        None => {
            client.flush().await?;
            rows.next().await
        }
    };
    row.transpose()
}

/// All rows of an answer, with its columns before them.
pub async fn send_query_response<C>(
    client: &mut C,
    mut response: QueryResponse,
    send_describe: bool,
) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    C::Error: Debug,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    if send_describe {
        let columns = response.row_schema().iter().map(Into::into).collect();
        client.feed(PgWireBackendMessage::RowDescription(RowDescription::new(columns))).await?;
    }
    let mut count = 0;
    while let Some(row) = next_row(client, response.data_rows()).await? {
        client.feed(PgWireBackendMessage::DataRow(row)).await?;
        count += 1;
    }
    let tag = Tag::new(response.command_tag()).with_rows(count);
    Ok(client.feed(PgWireBackendMessage::CommandComplete(tag.into())).await?)
}

/// At most `max_rows` of an answer, or all for 0. `true`: there may be more.
pub async fn send_partial_query_response<C>(
    client: &mut C,
    response: &mut QueryResponse,
    max_rows: usize,
) -> PgWireResult<bool>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    C::Error: Debug,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let mut count = 0;
    while max_rows == 0 || count < max_rows {
        let Some(row) = next_row(client, response.data_rows()).await? else {
            let tag = Tag::new(response.command_tag()).with_rows(count);
            client.send(PgWireBackendMessage::CommandComplete(tag.into())).await?;
            return Ok(false);
        };
        client.feed(PgWireBackendMessage::DataRow(row)).await?;
        count += 1;
    }
    client.send(PgWireBackendMessage::PortalSuspended(PortalSuspended::new())).await?;
    Ok(true)
}
