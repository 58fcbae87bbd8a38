package matrix;

import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;

/** Runs steps and prints their verdicts, in the words of clients/python/rowkit.py. */
final class Row {
    static final int PARTITIONS = 6;
    static final int RECORDS = Integer.parseInt(System.getenv().getOrDefault("MATRIX_RECORDS", "200"));
    static final long WAIT_MS = 45_000;

    final String name;
    final String bootstrap;
    final String runId;
    private boolean failed;

    Row(String name, String[] args) {
        if (args.length != 2) {
            throw new IllegalArgumentException("usage: BOOTSTRAP RUN_ID");
        }
        this.name = name;
        this.bootstrap = args[0];
        this.runId = args[1];
    }

    String topic(String suffix) {
        return name + "-" + runId + "-" + suffix;
    }

    void info(String key, Object value) {
        System.out.println("INFO " + key + " " + value);
    }

    interface Body {
        void run() throws Exception;
    }

    boolean step(String step, Body body) {
        try {
            body.run();
            System.out.println("PASS " + step);
            return true;
        } catch (Throwable error) {
            failed = true;
            Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
            System.out.println("FAIL " + step + ": " + String.valueOf(cause).replaceAll("\\s+", " "));
            if (System.getenv("MATRIX_TRACE") != null) {
                error.printStackTrace();
            }
            return false;
        }
    }

    int exitCode() {
        return failed ? 1 : 0;
    }

    static void check(boolean holds, Object otherwise) {
        if (!holds) {
            throw new AssertionError(otherwise);
        }
    }

    static void waitFor(String what, Callable<Boolean> done) throws Exception {
        long deadline = System.currentTimeMillis() + WAIT_MS;
        while (!done.call()) {
            check(System.currentTimeMillis() < deadline, "timed out waiting for " + what);
            Thread.sleep(50);
        }
    }

    /** The call has to fail with this exception of the client. */
    static void expect(Class<? extends Throwable> wanted, Body body) throws Exception {
        try {
            body.run();
        } catch (ExecutionException error) {
            check(wanted.isInstance(error.getCause()), "answered " + error.getCause());
            return;
        }
        throw new AssertionError("no " + wanted.getSimpleName());
    }
}
