import java.math.BigDecimal;
import java.sql.Array;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.time.Instant;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;

/** JDBC, as applications use it and as DBeaver looks into a database. Prints a line for each step. */
public final class Jdbc {
  private interface Step {
    void run(Connection connection) throws Exception;
  }

  private static int failed = 0;

  public static void main(String[] args) throws Exception {
    String url = "jdbc:postgresql://127.0.0.1:" + args[0] + "/kafscale";
    int orders = Integer.parseInt(args[1]);
    step("connects", url, connection -> {
      check(connection.isValid(5), "isValid");
      DatabaseMetaData data = connection.getMetaData();
      same(data.getDatabaseProductName(), "PostgreSQL");
      same(connection.getCatalog(), "kafscale");
      same(connection.getSchema(), "public");
    });
    for (String mode : List.of("simple", "extended", "extendedForPrepared", "extendedCacheEverything")) {
      step("query-mode-" + mode, url + "?preferQueryMode=" + mode, connection -> {
        try (PreparedStatement s = connection.prepareStatement("SELECT customer, amount, paid FROM orders WHERE id = ?")) {
          for (long id = 0; id < 12; id++) {
            s.setLong(1, id);
            try (ResultSet rows = s.executeQuery()) {
              check(rows.next(), "no row");
              same(rows.getString(1), "c" + id % 7);
              same(rows.getDouble("amount"), id * 1.5);
              same(rows.getBoolean(3), id % 2 == 0);
            }
          }
        }
      });
    }
    step("binary-transfer-of-each-type", url + "?prepareThreshold=-1", Jdbc::types);
    step("text-transfer-of-each-type", url + "?binaryTransfer=false", Jdbc::types);
    step("parameters-of-each-type", url + "?prepareThreshold=1", Jdbc::parameters);
    step("fetch-size", url, connection -> {
      connection.setAutoCommit(false);
      try (Statement s = connection.createStatement()) {
        s.setFetchSize(100);
        long next = 0;
        try (ResultSet rows = s.executeQuery("SELECT id FROM orders ORDER BY id")) {
          while (rows.next()) {
            same(rows.getLong(1), next++);
          }
        }
        same(next, (long) orders);
      }
      connection.commit();
    });
    step("read-only-and-isolation", url, connection -> {
      connection.setReadOnly(true);
      connection.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
      connection.setAutoCommit(false);
      one(connection, "SELECT 1", rows -> same(rows.getInt(1), 1));
      connection.rollback();
    });
    step("errors-have-states", url, connection -> {
      for (String[] pair : new String[][] {
        {"SELEKT 1", "42601"}, {"SELECT nosuch FROM orders", "42703"}, {"SELECT * FROM nosuch", "42P01"},
        {"SELECT 'x'::int", "22P02"}, {"SELECT 1 / 0", "22012"}, {"DELETE FROM orders", "25006"},
      }) {
        try (Statement s = connection.createStatement()) {
          s.executeQuery(pair[0]).next();
          throw new AssertionError(pair[0] + " was answered");
        } catch (SQLException e) {
          same(e.getSQLState(), pair[1]);
        }
      }
    });
    step("metadata-of-dbeaver", url, Jdbc::metadata);
    System.exit(failed == 0 ? 0 : 1);
  }

  private static void types(Connection connection) throws SQLException {
    String sql = "SELECT 1::smallint, 2::int, 3::bigint, 1.5::real, 2.5::double precision, 12345.678::numeric(20, 3), true,"
        + " 'text', '\\x00ff'::bytea, '2026-01-02'::date, '2026-01-02 03:04:05.678'::timestamp,"
        + " '2026-01-02 03:04:05.678Z'::timestamptz, ARRAY[1, 2], ARRAY['a', NULL, 'b c'], NULL, NULL::int, at, tags"
        + " FROM orders WHERE id = ?";
    try (PreparedStatement s = connection.prepareStatement(sql)) {
      for (int i = 0; i < 8; i++) {
        s.setInt(1, 35);
        try (ResultSet rows = s.executeQuery()) {
          check(rows.next(), "no row");
          same(rows.getShort(1), (short) 1);
          same(rows.getInt(2), 2);
          same(rows.getLong(3), 3L);
          same(rows.getFloat(4), 1.5f);
          same(rows.getDouble(5), 2.5);
          same(rows.getBigDecimal(6), new BigDecimal("12345.678"));
          same(rows.getBoolean(7), true);
          same(rows.getString(8), "text");
          same(rows.getBytes(9).length, 2);
          same(rows.getDate(10), Date.valueOf("2026-01-02"));
          same(rows.getTimestamp(11), Timestamp.valueOf("2026-01-02 03:04:05.678"));
          same(rows.getTimestamp(12).toInstant(), Instant.parse("2026-01-02T03:04:05.678Z"));
          same(List.of((Object[]) rows.getArray(13).getArray()).toString(), "[1, 2]");
          same(((Object[]) rows.getArray(14).getArray())[2], "b c");
          same(rows.getString(15), null);
          same(rows.getInt(16), 0);
          check(rows.wasNull(), "no NULL");
          same(rows.getString(17).replace(" ", ""), "{\"day\":5}");
          same(rows.getMetaData().getColumnTypeName(17), "json");
          same(rows.getMetaData().getColumnTypeName(3), "int8");
        }
      }
    }
  }

  private static void parameters(Connection connection) throws SQLException {
    String sql = "SELECT ?::int, ?::bigint, ?::double precision, ?::numeric, ?::boolean, ?::text, ?::date, ?::timestamptz, ?::bytea, ?::text";
    try (PreparedStatement s = connection.prepareStatement(sql)) {
      for (int i = 0; i < 7; i++) {
        s.setInt(1, -7);
        s.setLong(2, Long.MAX_VALUE);
        s.setDouble(3, 0.1);
        s.setBigDecimal(4, new BigDecimal("-12345.67"));
        s.setBoolean(5, true);
        s.setString(6, "d'été");
        s.setDate(7, Date.valueOf("2026-02-28"));
        s.setObject(8, OffsetDateTime.parse("2026-02-28T12:00:00+02:00"));
        s.setBytes(9, new byte[] {0, (byte) 255});
        s.setNull(10, java.sql.Types.VARCHAR);
        try (ResultSet rows = s.executeQuery()) {
          check(rows.next(), "no row");
          same(rows.getInt(1), -7);
          same(rows.getLong(2), Long.MAX_VALUE);
          same(rows.getDouble(3), 0.1);
          same(rows.getBigDecimal(4).stripTrailingZeros(), new BigDecimal("-12345.67"));
          same(rows.getBoolean(5), true);
          same(rows.getString(6), "d'été");
          same(rows.getDate(7), Date.valueOf("2026-02-28"));
          same(rows.getTimestamp(8).toInstant(), Instant.parse("2026-02-28T10:00:00Z"));
          same(rows.getBytes(9)[1], (byte) 255);
          same(rows.getString(10), null);
        }
      }
    }
    try (PreparedStatement s = connection.prepareStatement("SELECT count(*) FROM orders WHERE id = ANY (?) AND customer = ANY (?)")) {
      Array ids = connection.createArrayOf("int8", new Long[] {1L, 2L, 8L});
      Array names = connection.createArrayOf("text", new String[] {"c1", "c\"x"});
      for (int i = 0; i < 7; i++) {
        s.setArray(1, ids);
        s.setArray(2, names);
        try (ResultSet rows = s.executeQuery()) {
          check(rows.next(), "no row");
          same(rows.getLong(1), 2L);
        }
      }
    }
  }

  private static void metadata(Connection connection) throws SQLException {
    DatabaseMetaData data = connection.getMetaData();
    List<String> schemas = column(data.getSchemas(), "TABLE_SCHEM");
    check(schemas.containsAll(List.of("public", "kafscale", "pg_catalog", "information_schema")), schemas.toString());
    same(column(data.getCatalogs(), "TABLE_CAT"), List.of("kafscale"));
    List<String> tables = column(data.getTables(null, "public", "%", new String[] {"TABLE"}), "TABLE_NAME");
    check(tables.contains("orders") && tables.contains("With.Odd-name"), tables.toString());
    check(column(data.getTables("kafscale", "kafscale", "%", null), "TABLE_NAME").contains("segments"), "system tables");
    same(column(data.getTables(null, null, "nosuch", null), "TABLE_NAME"), List.of());
    Map<String, String> types = new TreeMap<>();
    try (ResultSet rows = data.getColumns(null, "public", "orders", "%")) {
      while (rows.next()) {
        types.put(rows.getString("COLUMN_NAME"), rows.getString("TYPE_NAME"));
      }
    }
    same(types.get("_offset"), "int8");
    same(types.get("_ts"), "timestamptz");
    same(types.get("amount"), "float8");
    same(types.get("tags"), "json");
    same(column(data.getPrimaryKeys(null, "public", "orders"), "COLUMN_NAME"), List.of());
    same(column(data.getImportedKeys(null, "public", "orders"), "FKCOLUMN_NAME"), List.of());
    same(column(data.getExportedKeys(null, "public", "orders"), "FKCOLUMN_NAME"), List.of());
    same(column(data.getIndexInfo(null, "public", "orders", false, false), "INDEX_NAME"), List.of());
    check(column(data.getTypeInfo(), "TYPE_NAME").contains("int8"), "types");
    check(column(data.getTableTypes(), "TABLE_TYPE").contains("TABLE"), "kinds of tables");
    column(data.getProcedures(null, "public", "%"), "PROCEDURE_NAME");
    column(data.getFunctions(null, "public", "%"), "FUNCTION_NAME");
    column(data.getTablePrivileges(null, "public", "orders"), "PRIVILEGE");
    column(data.getColumnPrivileges(null, "public", "orders", "%"), "PRIVILEGE");
    column(data.getBestRowIdentifier(null, "public", "orders", DatabaseMetaData.bestRowSession, true), "COLUMN_NAME");
    column(data.getVersionColumns(null, "public", "orders"), "COLUMN_NAME");
    column(data.getUDTs(null, "public", "%", null), "TYPE_NAME");
    column(data.getClientInfoProperties(), "NAME");
    check(!data.getSQLKeywords().isEmpty(), "keywords");
    check(data.getMaxColumnNameLength() > 0, "longest name");
    try (Statement s = connection.createStatement(); ResultSet rows = s.executeQuery("SELECT * FROM orders LIMIT 1")) {
      same(rows.getMetaData().getColumnName(1), "_topic");
      rows.getMetaData().isAutoIncrement(1);
      rows.getMetaData().isNullable(1);
      rows.getMetaData().getTableName(1);
    }
  }

  private interface Look {
    void at(ResultSet rows) throws SQLException;
  }

  private static void one(Connection connection, String sql, Look look) throws SQLException {
    try (Statement s = connection.createStatement(); ResultSet rows = s.executeQuery(sql)) {
      check(rows.next(), "no row");
      look.at(rows);
    }
  }

  private static List<String> column(ResultSet rows, String name) throws SQLException {
    List<String> values = new ArrayList<>();
    try (rows) {
      while (rows.next()) {
        values.add(rows.getString(name));
      }
    }
    return values;
  }

  private static void step(String name, String url, Step step) {
    Properties properties = new Properties();
    properties.setProperty("user", "ana");
    try (Connection connection = DriverManager.getConnection(url, properties)) {
      step.run(connection);
      System.out.println("PASS " + name);
    } catch (Exception | AssertionError e) {
      failed++;
      System.out.println("FAIL " + name + ": " + String.valueOf(e).replace('\n', ' '));
    }
  }

  private static void same(Object made, Object expected) {
    check(java.util.Objects.equals(made, expected), made + ", not " + expected);
  }

  private static void check(boolean holds, String otherwise) {
    if (!holds) {
      StackTraceElement[] at = new Throwable().getStackTrace();
      throw new AssertionError(otherwise + " at line " + at[Math.min(2, at.length - 1)].getLineNumber());
    }
  }
}
