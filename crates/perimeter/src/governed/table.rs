//! A table as its caller may see it: the source behind it, the columns that are shown, masked or not, and the rows that are.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;

use super::exec::{GovernedExec, Mixed, Output, Shaping};
use super::leakproof::is_leakproof;
use super::masks::masked_type;
use super::{Failed, filter_failed, source_failed};
use crate::shape::{Mask, MinGroup, Shown, TableShape};

/// See the file's comment.
#[derive(Debug, Clone)]
pub struct GovernedTable {
    shape: Arc<TableShape>,
    source: Arc<dyn TableProvider>,
    /// The columns that are shown.
    schema: SchemaRef,
    outputs: Arc<[Output]>,
    /// Over columns of the source.
    row_filter: Option<Expr>,
    /// Columns whose values have parts of columns without labels, whatever labels they have.
    unlabelled: Arc<BTreeSet<String>>,
}

impl GovernedTable {
    /// Fails where a row filter of the rules does not fit the source.
    pub fn try_new(
        state: &SessionState,
        source: Arc<dyn TableProvider>,
        shape: Arc<TableShape>,
    ) -> Result<Self> {
        let of_source = source.schema();
        let unqualified = DFSchema::try_from(of_source.as_ref().clone())?;
        let filters = shape.row_filters.iter().map(|filter| {
            let of_rules = |error| filter_failed(&shape.table, &error);
            state.create_logical_expr(filter, &unqualified).map_err(of_rules)
        });
        let row_filter = conjunction(filters.collect::<Result<Vec<_>>>()?);
        Ok(GovernedTable::new(source, shape, row_filter))
    }

    /// The table of rows that `row_filter` lets through, over columns of the source.
    pub fn new(source: Arc<dyn TableProvider>, shape: Arc<TableShape>, row_filter: Option<Expr>) -> Self {
        let of_source = source.schema();
        let (mut fields, mut outputs) = (Vec::new(), Vec::new());
        // A column that came after the decision is in no rule, and not shown.
        for column in &shape.columns {
            let Some((at, field)) = of_source.column_with_name(&column.name) else { continue };
            let mask = match &column.shown {
                Shown::Hidden => continue,
                Shown::Masked(mask) => Some(mask.clone()),
                Shown::AsIs => None,
            };
            fields.push(shown_field(field, mask.as_ref()));
            outputs.push(Output::Column { at, mask });
        }
        let schema = Arc::new(Schema::new(fields));
        GovernedTable {
            shape,
            source,
            schema,
            outputs: outputs.into(),
            row_filter,
            unlabelled: Arc::default(),
        }
    }

    pub fn with_unlabelled(self, unlabelled: BTreeSet<String>) -> GovernedTable {
        GovernedTable { unlabelled: Arc::new(unlabelled), ..self }
    }

    /// Whether values of a column have parts of columns without labels, although it has some.
    pub fn has_unlabelled(&self, name: &str) -> bool {
        self.unlabelled.contains(name)
    }

    pub fn row_filter(&self) -> Option<&Expr> {
        self.row_filter.as_ref()
    }

    pub fn shape(&self) -> &TableShape {
        &self.shape
    }

    pub fn min_group(&self) -> Option<&MinGroup> {
        self.shape.min_group.as_ref()
    }

    /// The same table with two columns more, at the end: the entity of the rule about groups, unmasked, and a key of the row. Rows
    /// without an entity are in no group, and left out.
    pub fn held(&self, entity: &str, entity_name: &str, row_name: &str) -> Result<GovernedTable> {
        let of_source = self.source.schema();
        let Some((at, field)) = of_source.column_with_name(entity) else {
            return Err(Failed::NoEntity(self.shape.table.clone()).into());
        };
        let mut fields: Vec<_> = self.schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(entity_name, field.data_type().clone(), true)));
        fields.push(Arc::new(Field::new(row_name, DataType::UInt64, true)));
        let mut outputs = self.outputs.to_vec();
        outputs.extend([Output::Column { at, mask: None }, Output::RowKey]);
        let has_entity = Expr::Column(Column::new_unqualified(entity)).is_not_null();
        let row_filter = conjunction(self.row_filter.iter().cloned().chain([has_entity]));
        let schema = Arc::new(Schema::new(fields));
        Ok(GovernedTable { schema, outputs: outputs.into(), row_filter, ..self.clone() })
    }

    /// The same table with one column more, at the end: an entity whose number is limited, unmasked.
    pub fn with_entity(&self, entity: &str, name: &str) -> Result<GovernedTable> {
        let of_source = self.source.schema();
        let Some((at, field)) = of_source.column_with_name(entity) else {
            return Err(Failed::NoEntity(self.shape.table.clone()).into());
        };
        let mut fields: Vec<_> = self.schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(name, field.data_type().clone(), true)));
        let mut outputs = self.outputs.to_vec();
        outputs.push(Output::Column { at, mask: None });
        Ok(GovernedTable { schema: Arc::new(Schema::new(fields)), outputs: outputs.into(), ..self.clone() })
    }

    /// Whether the source may give rows in the order of values that are not shown. Of rows that are held, nobody sees the order.
    fn has_order_to_hide(&self) -> bool {
        let is_as_it_is = |name: &String| self.is_shown_as_it_is(name);
        let of_source = self.source.schema();
        let mut names = of_source.fields().iter().map(|field| field.name());
        !self.outputs.iter().any(|output| matches!(output, Output::RowKey)) && !names.all(is_as_it_is)
    }

    fn is_shown_as_it_is(&self, name: &str) -> bool {
        let at = self.schema.index_of(name);
        at.is_ok_and(|at| matches!(self.outputs[at], Output::Column { mask: None, .. }))
    }

    /// Whether the source may evaluate a condition of the caller.
    fn may_see(&self, condition: &Expr) -> bool {
        is_leakproof(condition)
            && condition.column_refs().iter().all(|column| self.is_shown_as_it_is(&column.name))
    }

    /// Parts of the row filter that the source can evaluate too. They are evaluated here in any case.
    fn filters_for_source(&self) -> Vec<Expr> {
        let Some(filter) = &self.row_filter else { return Vec::new() };
        let parts = datafusion::logical_expr::utils::split_conjunction(filter);
        let treated = self.source.supports_filters_pushdown(&parts).unwrap_or_default();
        let able = parts.into_iter().zip(treated);
        able.filter(|(_, treated)| *treated != TableProviderFilterPushDown::Unsupported)
            .map(|(part, _)| part.clone())
            .collect()
    }
}

/// What a column is called stays; what the source knows about its values does not.
fn shown_field(field: &Field, mask: Option<&Mask>) -> Field {
    match mask {
        Some(mask) => Field::new(field.name(), masked_type(mask, field.data_type()), true),
        None => Field::new(field.name(), field.data_type().clone(), field.is_nullable()),
    }
}

#[async_trait]
impl TableProvider for GovernedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let able: Vec<&Expr> = filters.iter().copied().filter(|filter| self.may_see(filter)).collect();
        let mut treated = self.source.supports_filters_pushdown(&able)?.into_iter();
        let of = |filter: &&Expr| match self.may_see(filter) {
            true => treated.next().unwrap_or(TableProviderFilterPushDown::Unsupported),
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(of).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.outputs.len()).collect();
        let wanted: Vec<&Output> = projection.unwrap_or(&all).iter().map(|at| &self.outputs[*at]).collect();
        let of_source = self.source.schema();
        let read_for = |output: &Output| match output {
            Output::Column { at, .. } => vec![*at],
            Output::RowKey => (0..of_source.fields().len()).collect(),
        };
        let mut read: BTreeSet<usize> = wanted.iter().copied().flat_map(read_for).collect();
        for column in self.row_filter.iter().flat_map(Expr::column_refs) {
            let at = of_source.index_of(&column.name);
            read.insert(at.map_err(|error| filter_failed(&self.shape.table, &error.into()))?);
        }
        let read: Vec<usize> = read.into_iter().collect();
        let mut pushed = filters.to_vec();
        pushed.extend(self.filters_for_source());
        // Which rows are left is not known before the filter, and which are the first tells of their order.
        let mixed = match limit {
            _ if !self.has_order_to_hide() => None,
            Some(_) => Some(Mixed::Few),
            None => Some(Mixed::Many),
        };
        let limit = limit.filter(|_| self.row_filter.is_none() && mixed.is_none());
        let input = self.source.scan(state, Some(&read), &pushed, limit).await;
        let input = input.map_err(|error| source_failed(&self.shape.table, error))?;
        let place = |column: usize| read.binary_search(&column).expect("it is read");
        let outputs = wanted.iter().map(|output| match output {
            Output::Column { at, mask } => Output::Column { at: place(*at), mask: mask.clone() },
            Output::RowKey => Output::RowKey,
        });
        let filter = match &self.row_filter {
            Some(filter) => {
                let schema = DFSchema::try_from(input.schema().as_ref().clone())?;
                let expression = state.create_physical_expr(filter.clone(), &schema);
                Some(expression.map_err(|error| filter_failed(&self.shape.table, &error))?)
            }
            None => None,
        };
        let shaping = Shaping {
            table: self.shape.table.clone(),
            filter,
            outputs: outputs.collect(),
            schema: Arc::new(self.schema.project(projection.unwrap_or(&all))?),
            mixed,
        };
        Ok(Arc::new(GovernedExec::new(input, Arc::new(shaping))))
    }
}

/// The governed table of a scan.
pub fn of_source(source: &dyn datafusion::logical_expr::TableSource) -> Option<&GovernedTable> {
    let source: &dyn Any = source;
    let provider = &source.downcast_ref::<datafusion::datasource::DefaultTableSource>()?.table_provider;
    let provider: &dyn Any = provider.as_ref();
    provider.downcast_ref::<GovernedTable>()
}
