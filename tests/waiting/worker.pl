# A worker of tests/waiting/contest.rs that locks with Perl's flock, or with flock(1): perl worker.pl WAY.
# `section` is what it runs under the lock, where a program holds it.
use strict;
use warnings;
use Fcntl qw(:flock O_RDWR O_WRONLY O_APPEND O_CREAT);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC sleep);

my ($lock, $me) = @ENV{qw(LOCK ME)};

sub stamp { return sprintf "%d", clock_gettime(CLOCK_MONOTONIC) * 1e9 }

sub note {
    sysopen(my $history, $ENV{HISTORY}, O_WRONLY | O_APPEND | O_CREAT, 0666) or die "history: $!";
    syswrite($history, "@_\n");
}

sub section {
    my ($mode, $asked) = @_;
    note("begin", $me, $mode, $asked, stamp());
    if ($mode eq "exclusive") {
        sysopen(my $counter, $ENV{COUNTER}, O_RDWR) or die "counter: $!";
        sysread($counter, my $count, 20);
        sleep(0.0005 + rand(0.0035));
        sysseek($counter, 0, 0);
        syswrite($counter, ($count + 1) . "\n");
    }
    else {
        sleep(0.0005 + rand(0.0035));
    }
    note("end", $me, stamp());
}

sub run {
    system(@_) == 0 or die "@_: $?";
}

my %ways = (
    perl => sub {
        my ($mode, $asked) = @_;
        open(my $file, "+>>", $lock) or die "$lock: $!";
        flock($file, $mode eq "exclusive" ? LOCK_EX : LOCK_SH) or die "flock: $!";
        section($mode, $asked);
        close($file);
    },
    command => sub {
        my ($mode, $asked) = @_;
        run("flock", $mode eq "exclusive" ? "-x" : "-s", $lock, $^X, $0, "section", $mode, $asked);
    },
    fd => sub {
        my ($mode, $asked) = @_;
        my $flag = $mode eq "exclusive" ? "-x" : "-s";
        run("bash", "-c", "( flock $flag 9 && '$^X' '$0' section $mode $asked ) 9>> '$lock'");
    },
    limit => sub {
        my ($mode, $asked) = @_;
        my $flag = $mode eq "exclusive" ? "-x" : "-s";
        run("bash", "-c", "exec 9>> '$lock'; until flock -w 0.05 $flag 9; do :; done
            '$^X' '$0' section $mode $asked; flock -u 9");
    },
    try => sub {
        my ($mode, $asked) = @_;
        my $flag = $mode eq "exclusive" ? "-x" : "-s";
        run("bash", "-c", "until flock -n -E 9 $flag '$lock' '$^X' '$0' section $mode $asked; do
            [ \$? = 9 ] || exit 1; read -rt 0.00\$((RANDOM % 5 + 3)) <> '$ENV{ARENA}/never'; :; done");
    },
    door => sub {
        my (undef, $asked) = @_;
        run("bash", "-c", "touch .wait/$lock && '$^X' '$0' section exclusive $asked && rm $lock");
    },
);

my $way = shift;
if ($way eq "section") {
    section(@ARGV);
    exit;
}
until (-e $ENV{ENOUGH}) {
    $ways{$way}->(rand() < 0.4 || $way eq "door" ? "exclusive" : "shared", stamp());
    sleep(rand(0.003));
}
