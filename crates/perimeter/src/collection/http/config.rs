//! What `perimeter.toml` says of a JSON API.
//!
//! ```toml
//! [collections.crm]
//! kind = "http"
//! url = "https://crm.example/api/v2"
//! bearer = { env = "CRM_TOKEN" }
//!
//! [collections.crm.tables.customers]
//! path = "/customers"
//! rows = "/data"
//! columns = "id bigint, name text, city text, since date"
//! pointers = { city = "/address/city" }
//! filters = { city = "city" }
//! pages = { by = "cursor", at = "/meta/next", parameter = "cursor" }
//!
//! [collections.crm.tables.orders]
//! path = "/customers/{customer}/orders"
//! columns = "id bigint, total numeric(12,2)"
//! arguments = "customer bigint"
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::collection::declared::ColumnList;
use crate::collection::json_rows::Pointer;
use crate::collection::reach::{Tls, connections, span};
use crate::collection::told::Told;
use crate::collection::web::{Header, SiteConfig};
use crate::secret::SecretSource;

const PAGES_DEFAULT: usize = 100;
const PAGES_MAX: usize = 100_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// What all paths are below: `https://crm.example/api/v2`.
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
    /// Requests at the same time. Default: 8.
    #[serde(default, deserialize_with = "connections")]
    pub max_connections: Option<usize>,
    /// The most bytes of one answer. Default: 16MiB.
    pub max_bytes: Option<String>,
    /// A description of the API (OpenAPI 3, in JSON), for tables without `columns`.
    pub openapi: Option<PathBuf>,
    pub tables: BTreeMap<String, HttpTable>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTable {
    /// Below the url. An argument in braces is a part of it: `/customers/{customer}/orders`.
    pub path: String,
    /// Parameters of each request, as `{ status = "active" }`.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// Where the rows are in an answer. Default: the answer is the array.
    #[serde(default)]
    pub rows: Pointer,
    /// Columns with their types in SQL, as `id bigint, name text`.
    #[serde(default)]
    pub columns: ColumnList,
    /// Where in a row the value of a column is. Default: in the field of its name.
    #[serde(default)]
    pub pointers: BTreeMap<String, Pointer>,
    /// The parameter that an equality of a column becomes.
    #[serde(default)]
    pub filters: BTreeMap<String, String>,
    /// Columns that a statement has to give, for the path or for a parameter of their name.
    #[serde(default)]
    pub arguments: ColumnList,
    pub pages: Option<Pages>,
    /// The most pages of one scan. Default: 100.
    #[serde(default = "pages", deserialize_with = "max_pages")]
    pub max_pages: usize,
}

/// How the next page is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "by", rename_all = "lowercase", deny_unknown_fields)]
pub enum Pages {
    /// By a text or a number of the answer, until there is none.
    Cursor { at: Pointer, parameter: String },
    /// By an address in the answer, or else in its header `Link`, until there is none.
    Link { at: Option<Pointer> },
    /// By the number of rows before it, until a page has none.
    Offset { parameter: String },
    /// By its own number, until a page has no rows.
    Number {
        parameter: String,
        #[serde(default = "first")]
        first: u64,
    },
}

fn pages() -> usize {
    PAGES_DEFAULT
}

fn first() -> u64 {
    1
}

fn max_pages<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let count = usize::deserialize(deserializer)?;
    match (1..=PAGES_MAX).contains(&count) {
        true => Ok(count),
        false => Err(de::Error::custom(format!("between 1 and {PAGES_MAX} pages are possible"))),
    }
}

impl HttpConfig {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &str) -> Result<HttpTable, String> {
        let text = format!("url = \"http://localhost\"\n[tables.t]\npath = \"/a\"\n{lines}");
        let config: Result<HttpConfig, _> = basic_toml::from_str(&text);
        config.map(|mut config| config.tables.remove("t").expect("it is there")).map_err(|e| e.to_string())
    }

    #[test]
    fn pages_are_read_by_their_way() {
        let of =
            |text: &str| table(&format!("pages = {text}")).map(|table| table.pages.expect("it is there"));
        assert_eq!(of("{ by = \"link\" }").unwrap(), Pages::Link { at: None });
        let number = Pages::Number { parameter: "page".into(), first: 1 };
        assert_eq!(of("{ by = \"number\", parameter = \"page\" }").unwrap(), number);
        for text in [
            "{ by = \"cursor\", parameter = \"c\" }",
            "{ by = \"cursor\", at = \"next\", parameter = \"c\" }",
            "{ by = \"link\", at = \"/next\", parametr = \"c\" }",
            "{ by = \"guess\" }",
        ] {
            assert!(of(text).is_err(), "{text}");
        }
        assert!(table("max_pages = 0").is_err());
    }
}
