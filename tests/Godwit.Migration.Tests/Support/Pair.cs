using System.Collections.Concurrent;

namespace Godwit.Migration.Tests;

/// <summary>A source and a destination in one process, connected by a real socket.</summary>
internal sealed class Pair : IDisposable
{
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private readonly BlockingCollection<MigrationState> _sourceStates = [];
    private readonly BlockingCollection<MigrationState> _destinationStates = [];
    private readonly TempDirectory _directory = new();

    public Pair(TestMachine source, TestMachine destination, TimeProvider? clock = null, string transport = "unix", MigrationTimes? times = null)
    {
        SourceMachine = source;
        DestinationMachine = destination;
        Source = new MigrationController(source, clock ?? TimeProvider.System, times ?? new MigrationTimes());
        Destination = new MigrationController(destination, clock ?? TimeProvider.System, times ?? new MigrationTimes());
        Source.StateChanged += _sourceStates.Add;
        Destination.StateChanged += _destinationStates.Add;
        Destination.IncomingFailed += text => IncomingFailures.Enqueue(text);
        ListenUri = transport switch
        {
            "unix" => $"unix:{_directory.File("mig.sock")}",
            "local" => $"local:{_directory.File("new.sock")}",
            "tcp" => "tcp:127.0.0.1:0",
            "tcp6" => "tcp:[::1]:0",
            "localhost" => "tcp:localhost:0",
            _ => throw new ArgumentOutOfRangeException(nameof(transport)),
        };
    }

    public TestMachine SourceMachine { get; }

    public TestMachine DestinationMachine { get; }

    /// <summary>Whether the destination's machine goes on after this.</summary>
    public bool KeepsDestination { get; init; }

    public MigrationController Source { get; }

    public MigrationController Destination { get; }

    public string ListenUri { get; }

    public ConcurrentQueue<string> IncomingFailures { get; } = new();

    public string TempFile(string name) => _directory.File(name);

    public void Listen() => Destination.Listen(ListenUri);

    public string Address => Destination.ListeningAt!;

    /// <summary>Starts and waits for the end on both sides.</summary>
    public void Migrate()
    {
        if (Destination.ListeningAt is null)
            Listen();
        Source.Start(Address);
        WaitForSource(MigrationState.Completed, MigrationState.Failed, MigrationState.Cancelled);
    }

    /// <summary>Likewise, and has <paramref name="second"/> ask the same destination while it loads; returns when both have ended.</summary>
    public void MigrateWhileAsking(MigrationController second)
    {
        using var ended = new ManualResetEventSlim();
        second.StateChanged += state =>
        {
            if (state is MigrationState.Failed or MigrationState.Completed)
                ended.Set();
        };
        DestinationMachine.Calls.On("nvme0.BeginLoad", () =>
        {
            second.Start(ListenUri);
            Assert.True(ended.Wait(Patience));
        });
        Migrate();
    }

    public MigrationState WaitForSource(params MigrationState[] states) => WaitFor(_sourceStates, states, Source, "source");

    public MigrationState WaitForDestination(params MigrationState[] states) => WaitFor(_destinationStates, states, Destination, "destination");

    private static MigrationState WaitFor(BlockingCollection<MigrationState> seen, MigrationState[] states, MigrationController controller, string who)
    {
        for (; ; )
        {
            Assert.True(seen.TryTake(out MigrationState state, Patience),
                $"the {who} did not come to {string.Join(" or ", states)}; it is in {controller.Status.State}: {controller.Status.Error}");
            if (states.Contains(state))
                return state;
        }
    }

    public void Dispose()
    {
        Source.Dispose();
        Destination.Dispose();
        SourceMachine.Dispose();
        if (!KeepsDestination)
            DestinationMachine.Dispose();
        _directory.Dispose();
    }
}

/// <summary>A directory that goes away with the test, and must be empty then.</summary>
internal sealed class TempDirectory : IDisposable
{
    private readonly string _path = Directory.CreateTempSubdirectory("gwm").FullName;

    public string File(string name) => Path.Combine(_path, name);

    public void Dispose() => Directory.Delete(_path, recursive: true);
}
