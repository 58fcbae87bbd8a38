//! What `perimeter.toml` says of an upstream MCP server.
//!
//! ```toml
//! [collections.tickets]
//! kind = "mcp"
//! url = "https://tickets.example/mcp"
//! bearer = { env = "TICKETS_TOKEN" }
//!
//! [collections.tickets.tables.found]
//! tool = "search_tickets"
//! input_schema = "sha256:…"
//! rows = "/tickets"
//! columns = "id bigint, title text, state text"
//! arguments = "query text"
//! fixed = { limit = 100 }
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::collection::declared::ColumnList;
use crate::collection::json_rows::Pointer;
use crate::collection::reach::{REFRESH_DEFAULT, Tls, connections, span};
use crate::collection::told::Told;
use crate::collection::web::{Header, SiteConfig};
use crate::secret::SecretSource;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpConfig {
    /// Where the server takes requests (streamable HTTP): `https://tickets.example/mcp`.
    pub url: String,
    /// `off` allows `http://` beyond loopback.
    pub tls: Option<Tls>,
    pub tls_ca_file: Option<PathBuf>,
    /// A token for the header `Authorization`.
    pub bearer: Option<SecretSource>,
    /// Other headers of each request. Those with secrets say where the secret is.
    #[serde(default)]
    pub headers: BTreeMap<String, Header>,
    /// Headers that say on whose behalf a request is. Default: none.
    #[serde(default)]
    pub caller_headers: BTreeMap<String, Told>,
    /// For a new connection. Default: 5s.
    #[serde(default, deserialize_with = "span")]
    pub connect_timeout: Option<Duration>,
    /// For each whole answer. Default: 30s.
    #[serde(default, deserialize_with = "span")]
    pub answer_timeout: Option<Duration>,
    /// After which the server's tools are looked at again. Default: 1m.
    #[serde(default, deserialize_with = "span")]
    pub refresh_interval: Option<Duration>,
    /// Requests at the same time. Default: 8.
    #[serde(default, deserialize_with = "connections")]
    pub max_connections: Option<usize>,
    /// The most bytes of one answer. Default: 16MiB.
    pub max_bytes: Option<String>,
    pub tables: BTreeMap<String, ToolTable>,
}

/// The answers of a tool as a table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolTable {
    /// The tool's name. It has to say of itself that it only reads (`readOnlyHint`).
    pub tool: String,
    /// The hash of its input schema when somebody looked at the tool, as `kafscale perimeter check`
    /// says it.
    pub input_schema: Option<String>,
    /// Where the rows are in the structured content. Default: the content is the array, or one row.
    #[serde(default)]
    pub rows: Pointer,
    /// Columns with their types in SQL, as `id bigint, name text`.
    #[serde(default)]
    pub columns: ColumnList,
    /// Where in a row the value of a column is. Default: in the field of its name.
    #[serde(default)]
    pub pointers: BTreeMap<String, Pointer>,
    /// The tool's argument that an equality of a column becomes.
    #[serde(default)]
    pub filters: BTreeMap<String, String>,
    /// Columns that a statement has to give, which the tool takes by their names.
    #[serde(default)]
    pub arguments: ColumnList,
    /// Arguments of each call.
    #[serde(default)]
    pub fixed: Map<String, Value>,
}

impl McpConfig {
    pub fn refresh(&self) -> Duration {
        self.refresh_interval.unwrap_or(REFRESH_DEFAULT)
    }

    pub fn site(&self) -> SiteConfig {
        SiteConfig {
            url: self.url.clone(),
            tls: self.tls,
            tls_ca_file: self.tls_ca_file.clone(),
            bearer: self.bearer.clone(),
            headers: self.headers.clone(),
            caller_headers: self.caller_headers.clone(),
            connect_timeout: self.connect_timeout,
            answer_timeout: self.answer_timeout,
            max_connections: self.max_connections,
            max_bytes: self.max_bytes.clone(),
        }
    }
}
