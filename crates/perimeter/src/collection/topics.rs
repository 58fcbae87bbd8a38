//! Topics of a KafScale cluster, read from its store as `kafscale sql` reads them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use clap::{Args as _, FromArgMatches as _};
use datafusion::catalog::SchemaProvider as _;
use kafscale_core::topic_config::TopicConfig;
use kafscale_settings::backend::StoreUrl;
use kafscale_settings::failure::Failure;
use kafscale_settings::sql::{Source, SqlArgs};
use kafscale_settings::units::Limit;
use kafscale_sql::catalog::Cluster;
use kafscale_sql::catalog::topics::{Topics as Statement, asked};
use kafscale_sql::error::SqlError;
use kafscale_sql::query::{Query, QueryLimits, ranges_text};
use kafscale_sql::run::open_cluster;
use kafscale_sql::topic::layout::MetaColumn;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{Collection, CollectionError, Keeping, Provenance, SourceTable};
use crate::caller::Caller;
use crate::deliver::Brokers;
use crate::rules::Holds;
use crate::secret::SecretSource;

/// The settings are those of `kafscale sql`, and mean the same.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicsConfig {
    /// The directory with the log and the metadata, unless `store` and `meta` say otherwise.
    pub data_dir: Option<PathBuf>,
    pub store: Option<String>,
    pub meta: Option<String>,
    pub cluster_name: Option<String>,
    pub etcd_username: Option<String>,
    pub etcd_password: Option<SecretSource>,
    pub etcd_ca_file: Option<PathBuf>,
    pub etcd_cert_file: Option<PathBuf>,
    pub etcd_key_file: Option<PathBuf>,
    pub s3_endpoint: Option<String>,
    pub s3_region: Option<String>,
    #[serde(default)]
    pub s3_virtual_host: bool,
    pub s3_access_key_id: Option<String>,
    pub s3_secret_access_key: Option<SecretSource>,
    pub topics_file: Option<PathBuf>,
    pub schema_dir: Option<PathBuf>,
    pub schema_registry: Option<String>,
    pub schema_registry_username: Option<String>,
    pub schema_registry_password: Option<SecretSource>,
    pub schema_registry_token: Option<SecretSource>,
    pub schema_registry_ca_file: Option<PathBuf>,
    /// Brokers of the cluster, as `host:port` with commas between several: answers may be delivered to its topics.
    pub brokers: Option<String>,
    /// The most bytes of a topic that a statement without a bound on time or offsets reads, as `10GiB`.
    pub scan_limit: Option<String>,
}

impl TopicsConfig {
    /// The settings as `kafscale sql` has them, without secrets. Variables of the process are not looked at: they may be of
    /// another cluster.
    fn args(&self, base: &Path) -> Result<SqlArgs, Failure> {
        let text = |value: &Option<String>| value.as_ref().map(OsString::from);
        let path = |value: &Option<PathBuf>| value.as_ref().map(|path| base.join(path).into_os_string());
        let data_dir = path(&self.data_dir).unwrap_or_else(|| base.join("kafscale-data").into_os_string());
        let flags = [
            ("--data-dir", Some(data_dir)),
            ("--store", text(&self.store)),
            ("--meta", text(&self.meta)),
            ("--cluster-name", text(&self.cluster_name)),
            ("--etcd-username", text(&self.etcd_username)),
            ("--etcd-ca-file", path(&self.etcd_ca_file)),
            ("--etcd-cert-file", path(&self.etcd_cert_file)),
            ("--etcd-key-file", path(&self.etcd_key_file)),
            ("--s3-endpoint", text(&self.s3_endpoint)),
            ("--s3-region", text(&self.s3_region)),
            ("--s3-virtual-host", self.s3_virtual_host.then(|| "true".into())),
            ("--s3-access-key-id", text(&self.s3_access_key_id)),
            ("--topics-file", path(&self.topics_file)),
            ("--schema-dir", path(&self.schema_dir)),
            ("--schema-registry", text(&self.schema_registry)),
            ("--schema-registry-username", text(&self.schema_registry_username)),
            ("--schema-registry-ca-file", path(&self.schema_registry_ca_file)),
            ("--scan-limit", text(&self.scan_limit)),
        ];
        let mut words = vec![OsString::from("topics")];
        for (flag, value) in flags {
            if let Some(value) = value {
                let mut word = OsString::from(flag);
                word.push("=");
                word.push(value);
                words.push(word);
            }
        }
        let command = SqlArgs::augment_args(clap::Command::new("topics"))
            .mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
        Ok(SqlArgs::from_arg_matches(&command.try_get_matches_from(words)?)?)
    }
}

/// Why a cluster cannot be read. For the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TopicsError(String);

impl From<Failure> for TopicsError {
    fn from(failure: Failure) -> TopicsError {
        // As somebody would write them in the file.
        TopicsError(failure.message().trim().trim_start_matches("error: ").to_owned())
    }
}

/// See the file's comment.
#[derive(Clone)]
pub struct Topics {
    collection: String,
    config: TopicsConfig,
    base: PathBuf,
    scan_bytes: Option<u64>,
    brokers: Option<Brokers>,
    /// Of the log, where that is on this machine.
    dir: Option<PathBuf>,
    cluster: Arc<OnceCell<Arc<Cluster>>>,
    /// Of the statement for which this is open.
    statement: Option<(Arc<Statement>, Arc<Query>)>,
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topics({})", self.collection)
    }
}

impl Topics {
    /// Nothing is asked of the cluster yet.
    pub fn new(collection: &str, config: &TopicsConfig, base: &Path) -> Result<Topics, TopicsError> {
        let args = config.args(base)?;
        let scan_bytes = match args.limits.scan_limit {
            Limit::Unlimited => None,
            Limit::At(bytes) => Some(bytes.0),
        };
        let brokers = |text: &String| {
            let parsed = Brokers::parse(text);
            parsed.ok_or_else(|| {
                TopicsError("brokers is not HOST:PORT, with commas between several".to_owned())
            })
        };
        let dir = match &args.source.store {
            None => Some(args.source.data_dir.clone()),
            Some(StoreUrl::File(dir)) => Some(dir.clone()),
            Some(StoreUrl::Memory | StoreUrl::S3 { .. }) => None,
        };
        Ok(Topics {
            dir,
            brokers: config.brokers.as_ref().map(brokers).transpose()?,
            collection: collection.to_owned(),
            config: config.clone(),
            base: base.to_owned(),
            scan_bytes,
            cluster: Arc::default(),
            statement: None,
        })
    }

    fn unreachable(&self, source: impl Into<super::Source>) -> CollectionError {
        CollectionError::Unreachable { collection: self.collection.clone(), source: source.into() }
    }

    /// What is opened is kept. Where that fails, the next statement tries again, with the secrets as they are then.
    async fn cluster(&self) -> Result<Arc<Cluster>, CollectionError> {
        let opened = self.cluster.get_or_try_init(|| async {
            let refused = |source| CollectionError::Refused { collection: self.collection.clone(), source };
            let mut args = self.config.args(&self.base).map_err(|e| refused(TopicsError::from(e).into()))?;
            let secrets = [
                (&self.config.etcd_password, &mut args.etcd.etcd_password),
                (&self.config.s3_secret_access_key, &mut args.s3.s3_secret_access_key),
                (&self.config.schema_registry_password, &mut args.schemas.schema_registry_password),
                (&self.config.schema_registry_token, &mut args.schemas.schema_registry_token),
            ];
            for (source, place) in secrets {
                if let Some(source) = source {
                    let secret = source.read(&self.base).await.map_err(|e| refused(e.into()))?;
                    *place = Some(secret.expose().to_owned());
                }
            }
            let source: Source = args.source().map_err(|e| refused(TopicsError::from(e).into()))?;
            let cache_bytes = usize::try_from(args.limits.cache_bytes.0).unwrap_or(usize::MAX);
            let cluster = open_cluster(source, cache_bytes, &args.schemas).await;
            cluster.map(Arc::new).map_err(|e| self.unreachable(TopicsError::from(e)))
        });
        let cluster = opened.await.map(Arc::clone)?;
        // A log that is gone, as with a disk that is not mounted, is not one without records.
        if let Some(dir) = &self.dir {
            tokio::fs::metadata(dir).await.map_err(|e| self.unreachable(e))?;
        }
        Ok(cluster)
    }

    async fn statement(&self) -> Result<(Arc<Statement>, Arc<Query>), CollectionError> {
        if let Some(statement) = &self.statement {
            return Ok(statement.clone());
        }
        let limits = QueryLimits { scan_bytes: self.scan_bytes, result_bytes: None };
        let query = Query::new(limits);
        Ok((Arc::new(Statement::new(self.cluster().await?, Arc::clone(&query))), query))
    }

    async fn names(&self) -> Result<Vec<String>, CollectionError> {
        let topics = self.cluster().await?.scanner.topics().await.map_err(|e| self.unreachable(e))?;
        Ok(topics.into_iter().map(|topic| topic.name).collect())
    }
}

#[async_trait]
impl Collection for Topics {
    fn kind(&self) -> &'static str {
        "topics"
    }

    async fn begin(&self, _: &Caller) -> Result<Option<Arc<dyn Collection>>, CollectionError> {
        let statement = Some(self.statement().await?);
        Ok(Some(Arc::new(Topics { statement, ..self.clone() })))
    }

    fn table_named<'n>(&self, name: &'n str) -> &'n str {
        topic_of(name)
    }

    async fn tables(&self) -> Result<Vec<String>, CollectionError> {
        self.names().await
    }

    async fn table(&self, name: &str, _: &Caller) -> Result<Option<SourceTable>, CollectionError> {
        let (statement, query) = self.statement().await?;
        let provider = match statement.table(name).await.map_err(SqlError::from) {
            Ok(Some(provider)) => provider,
            Ok(None) => return Ok(None),
            Err(error @ SqlError::Scan(_)) => return Err(self.unreachable(error)),
            Err(error) => {
                let collection = self.collection.clone();
                return Err(CollectionError::Unusable { collection, source: error.into() });
            }
        };
        let topic = topic_of(name).to_owned();
        let told = topic.clone();
        let provenance = Provenance(Arc::new(move || provenance(&query, &told)));
        Ok(Some(with_what_columns_hold(SourceTable::new(topic, provider, provenance))))
    }

    async fn keeping(&self, name: &str) -> Result<Option<Keeping>, CollectionError> {
        let topics = self.cluster().await?.scanner.topics().await.map_err(|e| self.unreachable(e))?;
        let Some(topic) = topics.into_iter().find(|topic| topic.name == name) else { return Ok(None) };
        let config = TopicConfig::resolve(&topic.configs, &BTreeMap::new());
        let config = config.map_err(|e| self.unreachable(e))?;
        let says = topic.configs.contains_key("retention.ms") && config.cleanup_delete;
        let retention_ms = config.retention_ms.filter(|_| says);
        Ok(Some(Keeping { compacts: config.cleanup_compact, retention_ms }))
    }

    fn brokers(&self) -> Option<&Brokers> {
        self.brokers.as_ref()
    }

    async fn check(&self) -> Result<Vec<String>, CollectionError> {
        Ok(vec![format!("{} topics", self.names().await?.len())])
    }
}

/// The topic of a name, behind which may stand how it is looked at. The names are taken apart as the engine does it, or rules would
/// decide about another topic.
fn topic_of(name: &str) -> &str {
    let marks = [asked::TAIL, asked::AS_OF];
    marks.iter().find_map(|mark| name.split_once(mark)).map_or(name, |(topic, _)| topic)
}

/// Records as they were written are columns beside their fields. Where a record is stored is the server's business.
fn with_what_columns_hold(table: SourceTable) -> SourceTable {
    let raw = [MetaColumn::Key, MetaColumn::Value, MetaColumn::Headers];
    let table = raw.iter().fold(table, |table, column| table.holding(column.name(), Holds::Everything));
    table.without(MetaColumn::Segment.name())
}

fn provenance(query: &Query, topic: &str) -> Value {
    let used = query.used().remove(topic).unwrap_or_default();
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    let mut told = json!({
        "topic": topic,
        "as_of": ranges_text(&used.ranges),
        "rows_read": count(&used.counters.rows),
        "bytes_read": count(&used.counters.bytes),
    });
    if count(&used.counters.misfits) > 0 {
        told["misfits"] = json!(count(&used.counters.misfits));
    }
    if let Some(records) = used.sampled {
        told["columns"] = json!(format!("inferred from {records} records"));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(text: &str, base: &Path) -> Result<Topics, TopicsError> {
        Topics::new("events", &basic_toml::from_str(text).unwrap(), base)
    }

    #[test]
    fn settings_are_those_of_sql() {
        let config: TopicsConfig =
            basic_toml::from_str("store = \"s3://log/x\"\nscan_limit = \"1GiB\"\nmeta = \"etcd://a:2379\"")
                .unwrap();
        let args = config.args(Path::new("/etc")).unwrap();
        assert_eq!(args.source.data_dir, Path::new("/etc/kafscale-data"));
        assert_eq!(args.source.store.unwrap().to_string(), "s3://log/x");
        assert_eq!(topics("scan_limit = \"1GiB\"", Path::new("/")).unwrap().scan_bytes, Some(1 << 30));
        let error = topics("store = \"ftp://x\"", Path::new("/")).unwrap_err().to_string();
        assert!(error.contains("--store"), "{error}");
    }

    /// The rules decide about the topic that is read, whatever its name is made of.
    #[test]
    fn a_name_is_taken_apart_as_the_engine_does_it() {
        for (name, topic) in [
            ("alarms", "alarms"),
            ("alarms@tail:50", "alarms"),
            ("alarms@as-of:0:0-10", "alarms"),
            ("alarms@secret", "alarms@secret"),
            ("alarms@as-of:0:0-1@tail:5", "alarms@as-of:0:0-1"),
            ("@tail:5", ""),
        ] {
            assert_eq!(topic_of(name), topic, "{name}");
            assert_eq!(topics("", Path::new("/")).unwrap().table_named(name), topic);
        }
    }

    #[test]
    fn a_record_holds_its_fields_and_no_path_is_told() {
        let names = ["_offset", "_key", "_value", "_headers", "_segment", "kind"];
        let field = |name| arrow::datatypes::Field::new(name, arrow::datatypes::DataType::Utf8, true);
        let schema = Arc::new(arrow::datatypes::Schema::new(names.map(field).to_vec()));
        let provider = Arc::new(datafusion::datasource::MemTable::try_new(schema, vec![vec![]]).unwrap());
        let table = SourceTable::new("t", provider, Provenance(Arc::new(|| json!(null))));
        let columns = with_what_columns_hold(table).columns;
        let raw = columns.iter().filter(|column| column.holds == Holds::Everything);
        assert_eq!(
            raw.map(|column| column.name.as_str()).collect::<Vec<_>>(),
            ["_key", "_value", "_headers"]
        );
        assert!(columns.iter().any(|c| c.name == "kind") && !columns.iter().any(|c| c.name == "_segment"));
    }

    #[tokio::test]
    async fn a_cluster_that_is_not_there_is_told_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let topics = topics("data_dir = \"none\"", dir.path()).unwrap();
        for _ in 0..2 {
            let error = topics.tables().await.unwrap_err();
            assert!(error.to_string().contains("the collection events"), "{error}");
        }
    }
}
