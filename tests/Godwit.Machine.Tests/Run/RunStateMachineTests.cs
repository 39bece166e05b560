namespace Godwit.Machine.Tests;

public class RunStateMachineTests
{
    /// <summary>The whole table, written down a second time; everything not in it must be refused.</summary>
    private static readonly HashSet<(RunState From, RunState To)> Legal =
    [
        (RunState.Prelaunch, RunState.InMigrate),
        (RunState.Prelaunch, RunState.Running),
        (RunState.Prelaunch, RunState.FinishMigrate),
        (RunState.Prelaunch, RunState.Shutdown),
        (RunState.InMigrate, RunState.Running),
        (RunState.InMigrate, RunState.Paused),
        (RunState.InMigrate, RunState.InternalError),
        (RunState.InMigrate, RunState.Shutdown),
        (RunState.Running, RunState.Paused),
        (RunState.Running, RunState.FinishMigrate),
        (RunState.Running, RunState.InternalError),
        (RunState.Running, RunState.Shutdown),
        (RunState.Paused, RunState.Running),
        (RunState.Paused, RunState.FinishMigrate),
        (RunState.Paused, RunState.Shutdown),
        (RunState.FinishMigrate, RunState.Prelaunch),
        (RunState.FinishMigrate, RunState.Running),
        (RunState.FinishMigrate, RunState.Paused),
        (RunState.FinishMigrate, RunState.PostMigrate),
        (RunState.FinishMigrate, RunState.InternalError),
        (RunState.FinishMigrate, RunState.Shutdown),
        (RunState.PostMigrate, RunState.Running),
        (RunState.PostMigrate, RunState.Shutdown),
        (RunState.InternalError, RunState.FinishMigrate),
        (RunState.InternalError, RunState.Shutdown),
    ];

    public static TheoryData<RunState, RunState> AllPairs()
    {
        var pairs = new TheoryData<RunState, RunState>();
        foreach (RunState from in Enum.GetValues<RunState>())
        {
            foreach (RunState to in Enum.GetValues<RunState>())
                pairs.Add(from, to);
        }

        return pairs;
    }

    [Theory]
    [MemberData(nameof(AllPairs))]
    public void A_change_is_made_if_it_is_in_the_table_and_refused_with_both_names_otherwise(RunState from, RunState to)
    {
        var seen = new List<(RunState, RunState)>();
        var machine = new RunStateMachine((a, b) => seen.Add((a, b)));
        foreach (RunState step in WayTo(from))
            machine.MoveTo(step);
        Assert.Equal(from, machine.Current);
        seen.Clear();

        if (Legal.Contains((from, to)))
        {
            machine.MoveTo(to);
            Assert.Equal(to, machine.Current);
            Assert.Equal([(from, to)], seen);
        }
        else
        {
            var refusal = Assert.Throws<InvalidOperationException>(() => machine.MoveTo(to));
            Assert.Contains(RunStateMachine.Name(from), refusal.Message, StringComparison.Ordinal);
            Assert.Contains(RunStateMachine.Name(to), refusal.Message, StringComparison.Ordinal);
            Assert.Equal(from, machine.Current);
            Assert.Empty(seen);
        }
    }

    [Fact]
    public void Events_arrive_in_order_even_when_a_handler_causes_the_next()
    {
        var seen = new List<int>();
        var events = new OrderedEvents();
        events.Post(() =>
        {
            events.Post(() => seen.Add(3));
            events.Deliver(); // already delivering: must not overtake
            seen.Add(1);
        });
        events.Post(() => seen.Add(2));
        events.Deliver();
        Assert.Equal([1, 2, 3], seen);
    }

    private static RunState[] WayTo(RunState state) => state switch
    {
        RunState.Prelaunch => [],
        RunState.InMigrate => [RunState.InMigrate],
        RunState.Running => [RunState.Running],
        RunState.Paused => [RunState.Running, RunState.Paused],
        RunState.FinishMigrate => [RunState.Running, RunState.FinishMigrate],
        RunState.PostMigrate => [RunState.Running, RunState.FinishMigrate, RunState.PostMigrate],
        RunState.InternalError => [RunState.Running, RunState.InternalError],
        _ => [RunState.Shutdown],
    };
}
