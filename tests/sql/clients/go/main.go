// pgx: the extended protocol with its cache of statements and binary formats, and its other modes. Prints a line for each step.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

var failed bool

func same(made, expected any) error {
	if !reflect.DeepEqual(made, expected) {
		return fmt.Errorf("%v, not %v", made, expected)
	}
	return nil
}

func step(name, url string, work func(context.Context, *pgx.Conn) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	connection, err := pgx.Connect(ctx, url)
	if err == nil {
		err = work(ctx, connection)
		_ = connection.Close(ctx)
	}
	if err != nil {
		failed = true
		fmt.Printf("FAIL %s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", " "))
		return
	}
	fmt.Printf("PASS %s\n", name)
}

const each = `SELECT 1::smallint, 2::int, 3::bigint, 1.5::real, 2.5::double precision, 12345.678::numeric(20, 3), true, 'text',
  '\x00ff'::bytea, '2026-01-02'::date, '2026-01-02 03:04:05.678Z'::timestamptz, ARRAY[1, 2]::bigint[], ARRAY['a', 'b c'], NULL::text,
  at, interval '1 day 2 hours' FROM orders WHERE id = $1`

func types(ctx context.Context, c *pgx.Conn) error {
	for range 3 {
		var small int16
		var whole int32
		var big int64
		var single float32
		var double float64
		var numeric pgtype.Numeric
		var yes bool
		var text string
		var data []byte
		var day, at time.Time
		var numbers []int64
		var names []string
		var none *string
		var object map[string]int
		var interval pgtype.Interval
		row := c.QueryRow(ctx, each, 35)
		err := row.Scan(&small, &whole, &big, &single, &double, &numeric, &yes, &text, &data, &day, &at, &numbers, &names, &none, &object, &interval)
		if err != nil {
			return err
		}
		number, err := numeric.Value()
		if err != nil {
			return err
		}
		err = errors.Join(
			same([]any{small, whole, big, single, double, number, yes, text}, []any{int16(1), int32(2), int64(3), float32(1.5), 2.5, "12345.678", true, "text"}),
			same(bytes.Equal(data, []byte{0, 255}), true),
			same(day.Format(time.DateOnly), "2026-01-02"),
			same(at.UTC().Format(time.RFC3339Nano), "2026-01-02T03:04:05.678Z"),
			same(numbers, []int64{1, 2}), same(names, []string{"a", "b c"}), same(none, (*string)(nil)), same(object, map[string]int{"day": 5}),
			same([]any{interval.Days, interval.Microseconds}, []any{int32(1), int64(7_200_000_000)}),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

func parameters(ctx context.Context, c *pgx.Conn) error {
	day := time.Date(2026, 2, 28, 10, 0, 0, 0, time.UTC)
	var whole int64
	var text string
	var yes bool
	var double float64
	var at time.Time
	var data []byte
	var none *string
	row := c.QueryRow(ctx, "SELECT $1::bigint, $2::text, $3::boolean, $4::float8, $5::timestamptz, $6::bytea, $7::text", int64(-7), "d'été", true, 0.1, day, []byte{0, 255}, nil)
	if err := row.Scan(&whole, &text, &yes, &double, &at, &data, &none); err != nil {
		return err
	}
	if err := errors.Join(same([]any{whole, text, yes, double}, []any{int64(-7), "d'été", true, 0.1}), same(at.Equal(day), true), same(len(data), 2), same(none, (*string)(nil))); err != nil {
		return err
	}
	var count int64
	for _, pair := range []struct {
		sql  string
		args []any
		n    int64
	}{
		{"SELECT count(*) FROM orders WHERE id < $1", []any{10}, 10},
		{"SELECT count(*) FROM orders WHERE customer = $1 AND amount >= $2", []any{"c1", 12.0}, 428},
		{"SELECT count(*) FROM orders WHERE id = ANY($1)", []any{[]int64{1, 2, 8}}, 3},
		{"SELECT count(*) FROM orders WHERE customer = ANY($1::text[]) AND id < $2", []any{[]string{"c1", "c2"}, 7}, 2},
		{"SELECT count(*) FROM orders WHERE _ts >= $1 AND _ts < $2", []any{time.UnixMilli(1_700_000_005_000), time.UnixMilli(1_700_000_008_000)}, 3},
		{"SELECT count(*) FROM (SELECT id FROM orders LIMIT $1) x", []any{5}, 5},
	} {
		for range 2 {
			if err := c.QueryRow(ctx, pair.sql, pair.args...).Scan(&count); err != nil {
				return fmt.Errorf("%s: %w", pair.sql, err)
			}
			if err := same(count, pair.n); err != nil {
				return fmt.Errorf("%s: %w", pair.sql, err)
			}
		}
	}
	return nil
}

func main() {
	port, orders := os.Args[1], os.Args[2]
	url := "postgres://ana@127.0.0.1:" + port + "/kafscale?sslmode=disable"
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec"} {
		step("types-"+mode, url+"&default_query_exec_mode="+mode, types)
	}
	step("parameters", url, parameters)
	step("all-rows", url, func(ctx context.Context, c *pgx.Conn) error {
		rows, err := c.Query(ctx, "SELECT id, customer, amount FROM orders ORDER BY id")
		if err != nil {
			return err
		}
		type order struct {
			ID       int64
			Customer string
			Amount   float64
		}
		all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[order])
		if err != nil {
			return err
		}
		return errors.Join(same(fmt.Sprint(len(all)), orders), same(all[8], order{8, "c1", 12}))
	})
	step("a-batch", url, func(ctx context.Context, c *pgx.Conn) error {
		batch := &pgx.Batch{}
		for i := range 5 {
			batch.Queue("SELECT customer FROM orders WHERE id = $1", i)
		}
		results := c.SendBatch(ctx, batch)
		for i := range 5 {
			var customer string
			if err := results.QueryRow().Scan(&customer); err != nil {
				return err
			}
			if err := same(customer, fmt.Sprintf("c%d", i%7)); err != nil {
				return err
			}
		}
		return results.Close()
	})
	step("a-transaction", url, func(ctx context.Context, c *pgx.Conn) error {
		return pgx.BeginTxFunc(ctx, c, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			var one int
			return errors.Join(tx.QueryRow(ctx, "SELECT 1").Scan(&one), same(one, 1))
		})
	})
	step("errors", url, func(ctx context.Context, c *pgx.Conn) error {
		for sql, code := range map[string]string{"SELECT nosuch FROM orders": "42703", "SELECT * FROM ordersx": "42P01", "SELECT 'x'::int": "22P02"} {
			var told *pgconn.PgError
			_, err := c.Exec(ctx, sql)
			if !errors.As(err, &told) {
				return fmt.Errorf("%s: %v", sql, err)
			}
			if err := same(told.Code, code); err != nil {
				return err
			}
		}
		return c.Ping(ctx)
	})
	step("a-pool", url, func(ctx context.Context, _ *pgx.Conn) error {
		pool, err := pgxpool.New(ctx, url)
		if err != nil {
			return err
		}
		defer pool.Close()
		done := make(chan error, 12)
		for range 12 {
			go func() {
				var n int64
				err := pool.QueryRow(ctx, "SELECT count(*) FROM orders").Scan(&n)
				done <- errors.Join(err, same(fmt.Sprint(n), orders))
			}()
		}
		for range 12 {
			err = errors.Join(err, <-done)
		}
		return err
	})
	step("copy", url, func(ctx context.Context, c *pgx.Conn) error {
		var out bytes.Buffer
		tag, err := c.PgConn().CopyTo(ctx, &out, "COPY (SELECT id, customer FROM orders WHERE id < 2 ORDER BY id) TO STDOUT (FORMAT csv)")
		return errors.Join(err, same(tag.String(), "COPY 2"), same(out.String(), "0,c0\n1,c1\n"))
	})
	if failed {
		os.Exit(1)
	}
}
