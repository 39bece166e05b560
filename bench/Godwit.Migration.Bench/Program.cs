using System.Diagnostics;
using System.Globalization;
using Godwit.Migration;
using Godwit.Migration.Bench;

// dotnet run -c Release --project bench/Godwit.Migration.Bench -- [--memory MIB] [--repeat N] [--transport unix|tcp|tls] [--channels N]
// dotnet run -c Release --project bench/Godwit.Migration.Bench -- cancel [the same]: how long a cancel takes instead
//
// Migrates an idle machine to another process, beside a plain copy of the same bytes over the same kind of socket (TCP for TLS) into fresh
// memory, by turns in the same run. The ratio is what counts: the machine's speed is in both.
switch (args)
{
    case ["destination", string uri, string size, string tls]:
        return Destination(uri, ulong.Parse(size, CultureInfo.InvariantCulture), tls);
    case ["receiver", string uri, string size]:
        PlainCopy.Receive(uri, ulong.Parse(size, CultureInfo.InvariantCulture));
        return 0;
}

bool cancel = args is ["cancel", ..];
if (cancel)
    args = args[1..];
ulong mebibytes = 2048;
int repeat = 3;
int channels = 1;
var transport = Transport.Unix;
for (int i = 0; i < args.Length; i += 2)
{
    string text = i + 1 < args.Length ? args[i + 1] : "";
    if (args[i] == "--transport")
    {
        if (!Enum.TryParse(text, ignoreCase: true, out transport) || !Enum.IsDefined(transport))
            return Complain($"--transport is unix, tcp or tls, not '{text}'");
        continue;
    }

    if (!int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int value) || value < 1)
        return Complain($"{args[i]} needs a number of at least 1");
    switch (args[i])
    {
        case "--memory" when value % 2 == 0:
            mebibytes = (ulong)value;
            break;
        case "--memory":
            return Complain("--memory must be a multiple of 2 MiB");
        case "--repeat":
            repeat = value;
            break;
        case "--channels":
            channels = value;
            break;
        default:
            return Complain($"Unknown option {args[i]}");
    }
}

string directory = Directory.CreateTempSubdirectory("godwit-bench").FullName;
try
{
    if (transport == Transport.Tls)
        Link.WriteCertificates(directory);
    TlsCredentials? credentials = transport == Transport.Tls ? TlsCredentials.Load(directory, []) : null;
    ulong bytes = mebibytes << 20;
    if (cancel)
    {
        using var machine = new IdleMachine(bytes);
        machine.FillWithRandom(seed: 1);
        Cancel(machine, credentials);
        return 0;
    }

    Console.WriteLine($"{mebibytes} MiB over {transport.ToString().ToLowerInvariant()}, {channels} {(channels == 1 ? "channel" : "channels")}, median of {repeat}");
    Console.WriteLine("MB/s of guest memory; CPU seconds of both sides; resident memory of the destination beside guest RAM");
    Console.WriteLine(
        $"{"contents",-10} {"migration",10} {"verified",10} {"plain copy",11} {"ratio",6} {"downtime",10} {"CPU",7} {"copy's",7} {"resident",9}");
    using (var machine = new IdleMachine(bytes))
    {
        machine.FillWithRandom(seed: 1);
        Compare("random", machine, credentials);
    }

    using (var machine = new IdleMachine(bytes))
    {
        machine.FillWithZeros();
        Compare("zeros", machine, credentials);
    }

    using (var machine = new IdleMachine(bytes))
        Compare("untouched", machine, credentials, copy: false);
    return 0;
}
finally
{
    Directory.Delete(directory, recursive: true);
}

void Compare(string name, IdleMachine machine, TlsCredentials? credentials, bool copy = true)
{
    var migrations = new List<Sample>();
    var verified = new List<Sample>();
    var copies = new List<Sample>();
    for (int i = 0; i <= repeat; i++)
    {
        Sample migration = Migrate(machine, credentials, verify: false);
        Sample checkedOne = Migrate(machine, credentials, verify: true);
        Sample copied = copy ? Copy(machine) : default;
        if (i == 0)
            continue; // warms up the code of this process
        migrations.Add(migration);
        verified.Add(checkedOne);
        copies.Add(copied);
    }

    double migrationRate = Median(migrations, sample => Rate(machine, sample));
    double copyRate = copy ? Median(copies, sample => Rate(machine, sample)) : 0;
    string beside = copy ? string.Create(CultureInfo.InvariantCulture, $"{copyRate,11:0} {migrationRate / copyRate,6:0.00}") : $"{"-",11} {"-",6}";
    string copyCpu = copy ? Median(copies, sample => sample.CpuSeconds).ToString("0.00", CultureInfo.InvariantCulture) : "-";
    Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
        $"{name,-10} {migrationRate,10:0} {Median(verified, sample => Rate(machine, sample)),10:0} {beside} {Median(migrations, sample => sample.Downtime.TotalMilliseconds),7:0.0} ms {Median(migrations, sample => sample.CpuSeconds),7:0.00} {copyCpu,7} {Median(migrations, sample => sample.Resident) / 1e6,6:0} MB"));
}

Sample Migrate(IdleMachine machine, TlsCredentials? credentials, bool verify)
{
    string uri = Link.NewUri(transport, directory);
    using var other = new OtherProcess(
        "destination", uri, machine.Block.Size.ToString(CultureInfo.InvariantCulture), credentials is null ? "" : directory);
    using var controller = new MigrationController(machine, TimeProvider.System);
    using var ended = new ManualResetEventSlim();
    controller.Parameters = new MigrationParameters { VerifyPages = verify, Channels = channels, Tls = credentials };
    controller.StateChanged += state =>
    {
        if (state is MigrationState.Completed or MigrationState.Failed)
            ended.Set();
    };
    double cpu = Environment.CpuUsage.TotalTime.TotalSeconds;
    long began = Stopwatch.GetTimestamp();
    controller.Start(uri);
    ended.Wait();
    TimeSpan time = Stopwatch.GetElapsedTime(began);
    cpu = Environment.CpuUsage.TotalTime.TotalSeconds - cpu;
    MigrationStatus status = controller.Status;
    if (status.State != MigrationState.Completed)
        throw new InvalidOperationException(status.Error);
    other.Expect("completed");
    Usage theirs = other.ReadUsage();
    return new Sample(time, status.Downtime!.Total, cpu + theirs.CpuSeconds, theirs.PeakBytes);
}

void Cancel(IdleMachine machine, TlsCredentials? credentials)
{
    Migrate(machine, credentials, verify: false); // warms up
    TimeSpan whole = Migrate(machine, credentials, verify: false).Time;
    string uri = Link.NewUri(transport, directory);
    using var other = new OtherProcess("destination", uri, machine.Block.Size.ToString(CultureInfo.InvariantCulture), "");
    Console.WriteLine($"{mebibytes} MiB, {repeat} cancels at random moments of {whole.TotalSeconds:0.0} s; ms until the machine is left alone, and until it is told");
    Console.WriteLine($"{"destination",-14} {"median",8} {"largest",8} {"told: median",12} {"largest",8}");
    CancelTimes.Measure(machine, other, uri, whole, repeat, stopped: false);
    CancelTimes.Measure(machine, other, uri, whole, repeat, stopped: true);
    other.Kill();
}

Sample Copy(IdleMachine machine)
{
    string uri = Link.NewUri(transport, directory);
    using var other = new OtherProcess("receiver", uri, machine.Block.Size.ToString(CultureInfo.InvariantCulture));
    double cpu = Environment.CpuUsage.TotalTime.TotalSeconds;
    TimeSpan time = PlainCopy.Send(uri, machine);
    cpu = Environment.CpuUsage.TotalTime.TotalSeconds - cpu;
    Usage theirs = other.ReadUsage();
    return new Sample(time, TimeSpan.Zero, cpu + theirs.CpuSeconds, theirs.PeakBytes);
}

static int Destination(string uri, ulong bytes, string tls)
{
    using var machine = new IdleMachine(bytes);
    using var controller = new MigrationController(machine, TimeProvider.System);
    using var ended = new ManualResetEventSlim();
    controller.Parameters = new MigrationParameters { Tls = tls.Length > 0 ? TlsCredentials.Load(tls, []) : null };
    bool completed = false;
    controller.StateChanged += state =>
    {
        completed = state == MigrationState.Completed;
        if (completed || state == MigrationState.Failed)
            ended.Set();
    };
    controller.Listen(uri);
    Console.Out.WriteLine("ready");
    ended.Wait();
    Console.Out.WriteLine(completed ? "completed" : controller.Status.Error);
    Console.Out.WriteLine(Usage.Now());
    return completed ? 0 : 1;
}

static double Rate(IdleMachine machine, Sample sample) => machine.Block.Size / sample.Time.TotalSeconds / 1e6;

static double Median(List<Sample> samples, Func<Sample, double> of) => samples.Select(of).Order().ElementAt(samples.Count / 2);

static int Complain(string problem)
{
    Console.Error.WriteLine($"{problem}. Options: --memory MIB (2048), --repeat N (3), --transport unix|tcp|tls (unix), --channels N (1)");
    return 2;
}
