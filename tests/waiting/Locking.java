import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Locks with FileChannel. Without an argument it is a locker as locker.py is one; with `worker` a worker of
 * tests/waiting/contest.rs.
 */
public final class Locking {
    private static FileChannel open(String path) throws Exception {
        return FileChannel.open(
            Path.of(path), StandardOpenOption.READ, StandardOpenOption.WRITE, StandardOpenOption.CREATE);
    }

    private static String env(String name) {
        return System.getenv(name);
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length == 0) {
            obey();
        } else {
            work();
        }
    }

    private static void obey() throws Exception {
        FileChannel channel = open("f");
        BufferedReader orders = new BufferedReader(new InputStreamReader(System.in));
        FileLock lock = null;
        for (String order; (order = orders.readLine()) != null; ) {
            switch (order) {
                case "release" -> lock.release();
                case "wait" -> lock = channel.lock();
                case "try" -> lock = channel.tryLock();
                case "try-to-share" -> lock = channel.tryLock(0, Long.MAX_VALUE, true);
                default -> throw new IllegalArgumentException(order);
            }
            System.out.println(lock == null ? "busy" : "ok");
        }
    }

    private static void work() throws Exception {
        String me = env("ME");
        FileChannel counter = open(env("COUNTER"));
        while (!Files.exists(Path.of(env("ENOUGH")))) {
            ThreadLocalRandom dice = ThreadLocalRandom.current();
            boolean exclusive = dice.nextInt(5) < 2;
            long asked = System.nanoTime();
            try (FileChannel channel = open(env("LOCK")); FileLock lock = channel.lock(0, Long.MAX_VALUE, !exclusive)) {
                note("begin " + me + (exclusive ? " exclusive " : " shared ") + asked + " " + System.nanoTime());
                if (exclusive) {
                    ByteBuffer text = ByteBuffer.allocate(20);
                    int length = counter.read(text, 0);
                    long count = Long.parseLong(new String(text.array(), 0, length, StandardCharsets.US_ASCII).trim());
                    Thread.sleep(dice.nextInt(1, 4));
                    counter.write(ByteBuffer.wrap((count + 1 + "\n").getBytes(StandardCharsets.US_ASCII)), 0);
                } else {
                    Thread.sleep(dice.nextInt(1, 4));
                }
                note("end " + me + " " + System.nanoTime());
            }
            Thread.sleep(dice.nextInt(1, 4));
        }
    }

    private static void note(String line) throws Exception {
        Files.writeString(
            Path.of(env("HISTORY")), line + "\n", StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    }
}
