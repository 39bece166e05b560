using Godwit.Interop.Linux;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.VfioUser.Tests;

public sealed class MigrationArcsTests
{
    private const MigrationSupport All = MigrationSupport.StopCopy | MigrationSupport.P2P | MigrationSupport.PreCopy;

    /// <summary>First step from row to column with everything offered, as linux/vfio.h describes it; null where there is no way.</summary>
    private static readonly Dictionary<DeviceMigrationState, Dictionary<DeviceMigrationState, DeviceMigrationState?>> FirstSteps = new()
    {
        [Stop] = new()
        {
            [Running] = RunningP2P,
            [PreCopy] = RunningP2P,
            [PreCopyP2P] = RunningP2P,
            [StopCopy] = StopCopy,
            [Resuming] = Resuming,
            [RunningP2P] = RunningP2P,
        },
        [Running] = new()
        {
            [Stop] = RunningP2P,
            [PreCopy] = PreCopy,
            [PreCopyP2P] = RunningP2P,
            [StopCopy] = RunningP2P,
            [Resuming] = RunningP2P,
            [RunningP2P] = RunningP2P,
        },
        [PreCopy] = new()
        {
            [Stop] = Running,
            [Running] = Running,
            [PreCopyP2P] = PreCopyP2P,
            [StopCopy] = PreCopyP2P,
            [Resuming] = Running,
            [RunningP2P] = Running,
        },
        [PreCopyP2P] = new()
        {
            [Stop] = RunningP2P,
            [Running] = RunningP2P,
            [PreCopy] = PreCopy,
            [StopCopy] = StopCopy,
            [Resuming] = RunningP2P,
            [RunningP2P] = RunningP2P,
        },
        [StopCopy] = new()
        {
            [Stop] = Stop,
            [Running] = Stop,
            [PreCopy] = null,
            [PreCopyP2P] = null,
            [Resuming] = Stop,
            [RunningP2P] = Stop,
        },
        [Resuming] = new()
        {
            [Stop] = Stop,
            [Running] = Stop,
            [PreCopy] = Stop,
            [PreCopyP2P] = Stop,
            [StopCopy] = Stop,
            [RunningP2P] = Stop,
        },
        [RunningP2P] = new()
        {
            [Stop] = Stop,
            [Running] = Running,
            [PreCopy] = Running,
            [PreCopyP2P] = PreCopyP2P,
            [StopCopy] = Stop,
            [Resuming] = Stop,
        },
    };

    [Fact]
    public void Every_way_is_made_of_the_kernels_steps()
    {
        foreach ((DeviceMigrationState from, var row) in FirstSteps)
        {
            foreach ((DeviceMigrationState to, DeviceMigrationState? first) in row)
            {
                bool found = MigrationArcs.TryFindWay(All, from, to, out DeviceMigrationState[]? way);
                Assert.True(found == first is not null, $"{from} -> {to}");
                if (!found)
                    continue;
                var expected = new List<DeviceMigrationState>();
                for (DeviceMigrationState at = from; at != to; at = expected[^1])
                    expected.Add(FirstSteps[at][to]!.Value);
                Assert.Equal(expected, way);
            }
        }
    }

    [Theory]
    [InlineData(Running, StopCopy, "Stop,StopCopy")]
    [InlineData(Running, Resuming, "Stop,Resuming")]
    [InlineData(Stop, PreCopy, "Running,PreCopy")]
    [InlineData(Resuming, PreCopy, "Stop,Running,PreCopy")]
    [InlineData(PreCopy, Stop, "Running,Stop")]
    [InlineData(PreCopy, StopCopy, "StopCopy")]
    [InlineData(StopCopy, Running, "Stop,Running")]
    [InlineData(StopCopy, PreCopy, null)]
    [InlineData(Running, RunningP2P, null)]
    [InlineData(PreCopy, PreCopyP2P, null)]
    [InlineData(Running, Error, null)]
    [InlineData(Error, Running, null)]
    [InlineData(Running, Running, "")]
    public void Without_p2p_the_ways_are_those_of_the_specification(DeviceMigrationState from, DeviceMigrationState to, string? expected)
    {
        bool found = MigrationArcs.TryFindWay(MigrationSupport.StopCopy | MigrationSupport.PreCopy, from, to, out DeviceMigrationState[]? way);
        Assert.Equal(expected, found ? string.Join(',', way!) : null);
    }

    [Fact]
    public void Stop_copy_alone_has_no_pre_copy() =>
        Assert.False(MigrationArcs.TryFindWay(MigrationSupport.StopCopy, Running, PreCopy, out _));

    [Fact]
    public void A_saving_state_is_never_passed_through_on_the_way_elsewhere()
    {
        foreach (MigrationSupport support in (MigrationSupport[])[All, MigrationSupport.StopCopy, MigrationSupport.StopCopy | MigrationSupport.P2P, MigrationSupport.StopCopy | MigrationSupport.PreCopy])
        {
            foreach (DeviceMigrationState from in Enum.GetValues<DeviceMigrationState>())
            {
                foreach (DeviceMigrationState to in Enum.GetValues<DeviceMigrationState>())
                {
                    if (!MigrationArcs.TryFindWay(support, from, to, out DeviceMigrationState[]? way) || way.Length == 0)
                        continue;
                    Assert.Equal(to, way[^1]);
                    if (!(from is PreCopy or PreCopyP2P && to == StopCopy))
                        Assert.DoesNotContain(way[..^1], MigrationArcs.IsSaving);
                    DeviceMigrationState at = from;
                    foreach (DeviceMigrationState next in way)
                    {
                        Assert.Contains((at, next), MigrationArcs.Of(support));
                        at = next;
                    }
                }
            }
        }
    }

    [Fact]
    public void A_refused_step_leaves_the_state_of_the_step_before()
    {
        foreach (int failing in (int[])[0, 1, 2])
        {
            int step = 0;
            var device = new TestDevice { OnTransition = (_, _) => step++ == failing ? Errno.EIO : Errno.None };
            var machine = new MigrationStateMachine(device, All);
            Assert.Equal(Errno.EIO, machine.Go((uint)StopCopy));
            Assert.Equal(new[] { Running, RunningP2P, Stop }[failing], machine.State);
            Assert.Equal(Errno.None, machine.Go((uint)StopCopy)); // from there on
            Assert.Equal([(Running, RunningP2P), (RunningP2P, Stop), (Stop, StopCopy)], device.Transitions.Distinct());
        }
    }

    [Fact]
    public void A_device_that_throws_is_in_error_until_reset()
    {
        var device = new TestDevice { OnTransition = (_, _) => throw new InvalidOperationException("lost my way") };
        using var server = new TestServer(device);
        using VfioUserClient client = server.Connect();
        Assert.Equal(Errno.EIO, Assert.Throws<VfioUserRemoteException>(() => client.SetMigrationState(Stop)).Errno);
        Assert.Equal(Error, client.GetMigrationState());
        Assert.Equal(Errno.EINVAL, Assert.Throws<VfioUserRemoteException>(() => client.SetMigrationState(Running)).Errno);
        client.Reset();
        Assert.Equal(Running, client.GetMigrationState());
    }
}
