using System.Diagnostics;
using System.Globalization;
using Godwit.Migration;
using Godwit.Migration.Bench;

// dotnet run -c Release --project bench/Godwit.Migration.Bench -- [--memory MIB] [--repeat N]
//
// Migrates an idle machine to another process over a unix socket, beside a plain copy of the same bytes over the same kind of socket into
// fresh memory, by turns in the same run. The ratio is what counts: the machine's speed is in both.
switch (args)
{
    case ["destination", string path, string size]:
        return Destination(path, ulong.Parse(size, CultureInfo.InvariantCulture));
    case ["receiver", string path, string size]:
        PlainCopy.Receive(path, ulong.Parse(size, CultureInfo.InvariantCulture));
        return 0;
}

ulong mebibytes = 2048;
int repeat = 3;
for (int i = 0; i < args.Length; i += 2)
{
    if (i + 1 == args.Length || !int.TryParse(args[i + 1], NumberStyles.None, CultureInfo.InvariantCulture, out int value) || value < 1)
        return Usage($"{args[i]} needs a number of at least 1");
    switch (args[i])
    {
        case "--memory" when value % 2 == 0:
            mebibytes = (ulong)value;
            break;
        case "--memory":
            return Usage("--memory must be a multiple of 2 MiB");
        case "--repeat":
            repeat = value;
            break;
        default:
            return Usage($"Unknown option {args[i]}");
    }
}

string directory = Directory.CreateTempSubdirectory("godwit-bench").FullName;
try
{
    ulong bytes = mebibytes << 20;
    Console.WriteLine($"{mebibytes} MiB, median of {repeat}, MB/s of guest memory");
    Console.WriteLine($"{"contents",-10} {"migration",10} {"verified",10} {"plain copy",11} {"ratio",6} {"downtime",10}");
    using (var machine = new IdleMachine(bytes))
    {
        machine.FillWithRandom(seed: 1);
        Compare("random", machine);
    }

    using (var machine = new IdleMachine(bytes))
    {
        machine.FillWithZeros();
        Compare("zeros", machine);
    }

    using (var machine = new IdleMachine(bytes))
        Compare("untouched", machine, copy: false);
    return 0;
}
finally
{
    Directory.Delete(directory, recursive: true);
}

void Compare(string name, IdleMachine machine, bool copy = true)
{
    var migrations = new List<double>();
    var verified = new List<double>();
    var copies = new List<double>();
    var downtimes = new List<double>();
    for (int i = 0; i <= repeat; i++)
    {
        (TimeSpan time, TimeSpan downtime) = Migrate(machine, verify: false);
        (TimeSpan verifiedTime, _) = Migrate(machine, verify: true);
        TimeSpan copyTime = copy ? Copy(machine) : TimeSpan.Zero;
        if (i == 0)
            continue; // warms up the code of this process
        migrations.Add(Rate(machine, time));
        verified.Add(Rate(machine, verifiedTime));
        copies.Add(copy ? Rate(machine, copyTime) : 0);
        downtimes.Add(downtime.TotalMilliseconds);
    }

    string beside = copy
        ? string.Create(CultureInfo.InvariantCulture, $"{Median(copies),11:0} {Median(migrations) / Median(copies),6:0.00}")
        : $"{"-",11} {"-",6}";
    Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
        $"{name,-10} {Median(migrations),10:0} {Median(verified),10:0} {beside} {Median(downtimes),7:0.0} ms"));
}

(TimeSpan Time, TimeSpan Downtime) Migrate(IdleMachine machine, bool verify)
{
    string path = Path.Combine(directory, "migration.sock");
    using var other = new OtherProcess("destination", path, machine.Block.Size.ToString(CultureInfo.InvariantCulture));
    using var controller = new MigrationController(machine, TimeProvider.System);
    using var ended = new ManualResetEventSlim();
    controller.Parameters = new MigrationParameters { VerifyPages = verify };
    controller.StateChanged += state =>
    {
        if (state is MigrationState.Completed or MigrationState.Failed)
            ended.Set();
    };
    long began = Stopwatch.GetTimestamp();
    controller.Start($"unix:{path}");
    ended.Wait();
    TimeSpan time = Stopwatch.GetElapsedTime(began);
    MigrationStatus status = controller.Status;
    if (status.State != MigrationState.Completed)
        throw new InvalidOperationException(status.Error);
    other.Expect("completed");
    return (time, status.Downtime!.Total);
}

TimeSpan Copy(IdleMachine machine)
{
    string path = Path.Combine(directory, $"copy{Environment.TickCount64}.sock");
    using var other = new OtherProcess("receiver", path, machine.Block.Size.ToString(CultureInfo.InvariantCulture));
    return PlainCopy.Send(path, machine);
}

static int Destination(string path, ulong bytes)
{
    using var machine = new IdleMachine(bytes);
    using var controller = new MigrationController(machine, TimeProvider.System);
    using var ended = new ManualResetEventSlim();
    bool completed = false;
    controller.StateChanged += state =>
    {
        completed = state == MigrationState.Completed;
        if (completed || state == MigrationState.Failed)
            ended.Set();
    };
    controller.Listen($"unix:{path}");
    Console.Out.WriteLine("ready");
    ended.Wait();
    Console.Out.WriteLine(completed ? "completed" : controller.Status.Error);
    return completed ? 0 : 1;
}

static double Rate(IdleMachine machine, TimeSpan time) => machine.Block.Size / time.TotalSeconds / 1e6;

static double Median(List<double> values) => values.Order().ElementAt(values.Count / 2);

static int Usage(string problem)
{
    Console.Error.WriteLine($"{problem}. Options: --memory MIB (2048), --repeat N (3)");
    return 2;
}
