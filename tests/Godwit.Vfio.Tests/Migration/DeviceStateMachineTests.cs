using Godwit.Migration;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

public sealed class DeviceStateMachineTests
{
    private const MigrationSupport StopCopyOnly = MigrationSupport.StopCopy;
    private const MigrationSupport WithPreCopy = MigrationSupport.StopCopy | MigrationSupport.PreCopy;
    private const MigrationSupport WithP2P = MigrationSupport.StopCopy | MigrationSupport.P2P;
    private const MigrationSupport Everything = WithPreCopy | MigrationSupport.P2P;

    public static TheoryData<MigrationSupport, string[]> Sources => new()
    {
        { StopCopyOnly, ["set stop", "set stop-copy", "set stop"] },
        { WithPreCopy, ["set pre-copy", "set stop-copy", "set stop"] },
        { WithP2P, ["set running-p2p", "set stop", "set stop-copy", "set stop"] },
        { Everything, ["set pre-copy", "set pre-copy-p2p", "set stop-copy", "set stop"] },
    };

    [Theory]
    [MemberData(nameof(Sources))]
    public void ASourceThatSucceedsMakesExactlyTheseCalls(MigrationSupport support, string[] calls)
    {
        (DeviceStateMachine machine, ScriptedMigration device, _) = Create(support);
        RunSource(machine);
        Assert.Equal(calls, device.Calls);
        Assert.Equal(DeviceMigrationState.Stop, machine.State);
    }

    public static TheoryData<MigrationSupport, string[]> Destinations => new()
    {
        { StopCopyOnly, ["set stop", "set resuming", "write 3", "set stop", "set running"] },
        { Everything, ["set running-p2p", "set stop", "set resuming", "write 3", "set stop", "set running-p2p", "set running"] },
    };

    [Theory]
    [MemberData(nameof(Destinations))]
    public void ADestinationThatSucceedsMakesExactlyTheseCalls(MigrationSupport support, string[] calls)
    {
        (DeviceStateMachine machine, ScriptedMigration device, _) = Create(support);
        RunDestination(machine);
        Assert.Equal(calls, device.Calls);
        Assert.Equal(DeviceMigrationState.Running, machine.State);
    }

    public static TheoryData<MigrationSupport, string[]> Rehearsals => new()
    {
        { StopCopyOnly, ["set stop", "set stop-copy", "read", "read", "set stop", "set resuming", "write 5", "set stop", "set running"] },
        {
            Everything,
            [
                "set running-p2p", "set stop", "set stop-copy", "read", "read", "set stop", "set resuming", "write 5", "set stop", "set running-p2p",
                "set running",
            ]
        },
    };

    [Theory]
    [MemberData(nameof(Rehearsals))]
    public void AFreshDeviceTakesItsOwnStateAndStarts(MigrationSupport support, string[] calls)
    {
        (DeviceStateMachine machine, ScriptedMigration device, List<string> notices) = Create(support);
        device.Saved = 5;
        var clock = new ManualClock();
        machine.Changed += () => clock.Advance(TimeSpan.FromMilliseconds(10)); // each arc takes as long
        DeviceRehearsal? rehearsal = machine.Rehearse(clock);
        Assert.Equal(calls, device.Calls);
        Assert.Equal(new DeviceRehearsal(TimeSpan.FromMilliseconds(10), TimeSpan.FromMilliseconds(support == Everything ? 20 : 10)), rehearsal);
        device.Calls.Clear();
        RunDestination(machine);
        Assert.Equal(DeviceMigrationState.Running, machine.State);
        Assert.Empty(notices);
    }

    [Fact]
    public void AStoppedDeviceRehearsesAndStaysStopped()
    {
        (DeviceStateMachine machine, ScriptedMigration device, _) = Create(Everything);
        machine.SetRunning(false);
        device.Saved = 5;
        device.Calls.Clear();
        Assert.NotNull(machine.Rehearse(new ManualClock()));
        Assert.Equal(["set stop-copy", "read", "read", "set stop", "set resuming", "write 5", "set stop"], device.Calls);
        machine.Recover();
        Assert.Equal(DeviceMigrationState.Stop, device.State);
    }

    [Fact]
    public void ADeviceWithMuchStateOfItsOwnDoesNotRehearseAndRuns()
    {
        (DeviceStateMachine machine, ScriptedMigration device, List<string> notices) = Create(Everything);
        device.Saved = DeviceStateMachine.MaxRehearsal + 1;
        Assert.Null(machine.Rehearse(new ManualClock()));
        Assert.Equal(DeviceMigrationState.Running, device.State);
        Assert.DoesNotContain("set resuming", device.Calls);
        Assert.DoesNotContain("reset", device.Calls);
        Assert.Empty(notices);
        RunDestination(machine);
    }

    [Fact]
    public void ADeviceThatSaysThatItHasMuchStateIsNotTakenToIt()
    {
        (DeviceStateMachine machine, ScriptedMigration device, _) = Create(Everything);
        device.SaysSize = DeviceStateMachine.MaxRehearsal + 1;
        Assert.Null(machine.Rehearse(new ManualClock()));
        Assert.Empty(device.Calls);
    }

    [Fact]
    public void ADeviceThatGivesItsStateSlowlyDoesNotRehearseForEver()
    {
        (DeviceStateMachine machine, ScriptedMigration device, _) = Create(Everything);
        var clock = new ManualClock();
        (device.Saved, device.Piece, device.Reading) = (1 << 20, 1, () => clock.Advance(TimeSpan.FromMilliseconds(500)));
        Assert.Null(machine.Rehearse(clock));
        Assert.Equal(DeviceMigrationState.Running, device.State);
        Assert.Equal(5, device.Calls.Count(call => call == "read")); // until more than 2 s are over
        Assert.DoesNotContain("set resuming", device.Calls);
    }

    /// <summary>Every arc of a rehearsal fails: the device runs again, and another migration may come.</summary>
    [Fact]
    public void ARehearsalThatFailsAtAnyArcLeavesTheDeviceRunning()
    {
        for (int failing = 0; failing < 8; failing++)
        {
            (DeviceStateMachine machine, ScriptedMigration device, _) = Create(Everything, d => d with { FailingSets = [failing] });
            device.Saved = 5;
            Assert.Throws<MigrationPhaseException>(() => machine.Rehearse(new ManualClock()));
            Assert.Equal(DeviceMigrationState.Running, device.State);
            Assert.Equal(DeviceMigrationState.Running, machine.State);
            RunDestination(machine);
        }
    }

    public static TheoryData<MigrationSupport, int, string[]> FailuresOfTheSource => new()
    {
        // The device stays where it was; recovery goes back along the arcs.
        { StopCopyOnly, 0, ["set stop", "get"] },
        { StopCopyOnly, 1, ["set stop", "set stop-copy", "get", "set running"] },
        { WithPreCopy, 0, ["set pre-copy", "get"] },
        { WithPreCopy, 1, ["set pre-copy", "set stop-copy", "get", "set running"] },
        { WithP2P, 0, ["set running-p2p", "get"] },
        { WithP2P, 1, ["set running-p2p", "set stop", "get", "set running"] },
        { WithP2P, 2, ["set running-p2p", "set stop", "set stop-copy", "get", "set running-p2p", "set running"] },
        { Everything, 0, ["set pre-copy", "get"] },
        { Everything, 1, ["set pre-copy", "set pre-copy-p2p", "get", "set running"] },
        { Everything, 2, ["set pre-copy", "set pre-copy-p2p", "set stop-copy", "get", "set running-p2p", "set running"] },
    };

    [Theory]
    [MemberData(nameof(FailuresOfTheSource))]
    public void AFailingArcOfTheSourceEndsInRunningWithExactlyTheseCalls(MigrationSupport support, int failing, string[] calls)
    {
        (DeviceStateMachine machine, ScriptedMigration device, List<string> notices) = Create(support, d => d with { FailingSets = [failing] });
        var failure = Assert.Throws<MigrationPhaseException>(() => RunSource(machine));
        Assert.Equal(device.State, failure.Left);
        machine.Recover();
        Assert.Equal(calls, device.Calls);
        Assert.Equal(DeviceMigrationState.Running, device.State);
        Assert.Equal(DeviceMigrationState.Running, machine.State);
        Assert.Empty(notices);
    }

    /// <summary>Every arc of every device fails in every way there is; the guest's device always runs again, or is told of.</summary>
    [Fact]
    public void AnyFailureAtAnyArcLeavesTheDeviceRunning()
    {
        int cases = 0;
        foreach (MigrationSupport support in (MigrationSupport[])[StopCopyOnly, WithPreCopy, WithP2P, Everything])
        {
            foreach (bool source in (bool[])[true, false])
            {
                for (int first = 0; first < 8; first++)
                {
                    for (int second = first; second < 10; second++)
                    {
                        foreach (DeviceMigrationState? leaves in (DeviceMigrationState?[])[null, DeviceMigrationState.Error, DeviceMigrationState.Stop])
                        {
                            foreach (bool getFails in (bool[])[false, true])
                            {
                                (DeviceStateMachine machine, ScriptedMigration device, List<string> notices) = Create(
                                    support, d => d with { FailingSets = [first, second], FailureLeaves = leaves, GetFails = getFails });
                                bool failed = false;
                                try
                                {
                                    if (source)
                                        RunSource(machine);
                                    else
                                        RunDestination(machine);
                                }
                                catch (Exception e) when (e is MigrationPhaseException)
                                {
                                    failed = true;
                                }

                                if (!failed)
                                    continue;
                                cases++;
                                machine.Recover();
                                Assert.Equal(machine.State, device.State);
                                Assert.True(
                                    device.State == DeviceMigrationState.Running,
                                    $"{support} {(source ? "source" : "destination")} fails at {first} and {second}, leaving {leaves?.ToString() ?? "it"}: {string.Join(", ", device.Calls)}");
                                Assert.Equal(device.Calls.Contains("reset"), notices.Count > 0);
                            }
                        }
                    }
                }
            }
        }

        Assert.True(cases > 500, $"only {cases} cases failed");
    }

    [Fact]
    public void ADeviceInErrorIsResetAsLastResort()
    {
        (DeviceStateMachine machine, ScriptedMigration device, List<string> notices) = Create(
            WithPreCopy, d => d with { FailingSets = [1], FailureLeaves = DeviceMigrationState.Error });
        machine.BeginSave();
        var failure = Assert.Throws<MigrationPhaseException>(machine.StopAndCopy);
        Assert.Equal(DeviceMigrationState.Running, failure.Left);
        Assert.Equal(["set pre-copy", "set stop-copy", "get", "reset"], device.Calls);
        machine.Recover();
        Assert.Equal(["set pre-copy", "set stop-copy", "get", "reset"], device.Calls);
        Assert.Contains("was reset", Assert.Single(notices), StringComparison.Ordinal);
    }

    [Fact]
    public void WhenResetFailsTooItIsToldAndTheStateIsError()
    {
        (DeviceStateMachine machine, _, List<string> notices) = Create(
            WithPreCopy, d => d with { FailingSets = [1], FailureLeaves = DeviceMigrationState.Error, ResetFails = true });
        machine.BeginSave();
        var failure = Assert.Throws<MigrationPhaseException>(machine.StopAndCopy);
        Assert.Equal(DeviceMigrationState.Error, failure.Left);
        machine.Recover();
        Assert.Equal(DeviceMigrationState.Error, machine.State);
        Assert.Contains("reset failed", notices[0], StringComparison.Ordinal);
    }

    [Fact]
    public void ADestinationThatTookDataIsResetAndNeverRunsOnHalfAState()
    {
        (DeviceStateMachine machine, ScriptedMigration device, _) = Create(StopCopyOnly);
        machine.BeginLoad();
        machine.Write(new byte[3]);
        machine.Recover();
        Assert.Equal(["set stop", "set resuming", "write 3", "reset"], device.Calls);
        Assert.Equal(DeviceMigrationState.Running, machine.State);
    }

    [Fact]
    public void ADestinationThatTookNothingGoesBackByTheArcs()
    {
        (DeviceStateMachine machine, ScriptedMigration device, _) = Create(StopCopyOnly);
        machine.BeginLoad();
        machine.Recover();
        Assert.Equal(["set stop", "set resuming", "set stop", "set running"], device.Calls);
    }

    [Fact]
    public void APausedMachinesDeviceIsSavedFromStopAndRecoveredToStop()
    {
        (DeviceStateMachine machine, ScriptedMigration device, _) = Create(WithPreCopy);
        machine.SetRunning(false);
        machine.BeginSave();
        machine.Quiesce();
        machine.StopAndCopy();
        machine.Recover();
        Assert.Equal(["set stop", "set stop-copy", "set stop"], device.Calls);
        machine.SetRunning(true);
        Assert.Equal(DeviceMigrationState.Running, device.State);
    }

    [Fact]
    public void StoppingTheMachineInPreCopyKeepsTheSaveAndRecoversToStop()
    {
        (DeviceStateMachine machine, ScriptedMigration device, _) = Create(WithPreCopy);
        machine.BeginSave();
        machine.SetRunning(false);
        Assert.Equal(DeviceMigrationState.StopCopy, device.State);
        machine.StopAndCopy();
        Assert.Equal(["set pre-copy", "set stop-copy"], device.Calls);
        Assert.Throws<InvalidOperationException>(() => machine.SetRunning(true));
        machine.Recover();
        Assert.Equal(DeviceMigrationState.Stop, device.State);
    }

    [Fact]
    public void CancelFromAnyPhaseRunsAgain()
    {
        for (int phases = 0; phases <= 3; phases++)
        {
            (DeviceStateMachine machine, ScriptedMigration device, List<string> notices) = Create(Everything);
            Action[] source = [machine.BeginSave, machine.Quiesce, machine.StopAndCopy];
            foreach (Action phase in source.Take(phases))
                phase();
            machine.Recover();
            Assert.Equal(DeviceMigrationState.Running, device.State);
            Assert.DoesNotContain("reset", device.Calls);
            Assert.Empty(notices);
        }
    }

    [Fact]
    public void PhasesOutOfOrderAreRefusedByNameAndChangeNothing()
    {
        (DeviceStateMachine machine, ScriptedMigration device, _) = Create(WithPreCopy);
        Assert.Contains("end of load is out of order", Assert.Throws<InvalidOperationException>(machine.EndLoad).Message, StringComparison.Ordinal);
        Assert.Throws<InvalidOperationException>(() => machine.Write(new byte[1]));
        machine.BeginLoad();
        Assert.Throws<InvalidOperationException>(machine.StopAndCopy);
        Assert.Equal(["set stop", "set resuming"], device.Calls);
    }

    [Fact]
    public void ReadsOnlyWhereThereIsSomethingToSave()
    {
        (DeviceStateMachine machine, ScriptedMigration device, _) = Create(StopCopyOnly);
        machine.BeginSave();
        Assert.Equal(0, machine.Read(new byte[8]));
        Assert.Empty(device.Calls);
        machine.StopAndCopy();
        machine.Read(new byte[8]);
        Assert.Equal(["set stop", "set stop-copy", "read"], device.Calls);
    }

    [Fact]
    public void ADeviceWithoutMigrationRefusesTheMigrationAndIgnoresPauses()
    {
        (DeviceStateMachine machine, ScriptedMigration device, _) = Create(MigrationSupport.None);
        Assert.Throws<InvalidOperationException>(machine.BeginSave);
        Assert.Throws<InvalidOperationException>(machine.StopAndCopy);
        machine.SetRunning(false);
        machine.StartPeers();
        machine.StartAll();
        machine.Recover();
        Assert.Empty(device.Calls);
    }

    [Fact]
    public void ADeviceThatGoesInAnyCallEndsThePhaseAndDoesNotHoldUpRecovery()
    {
        for (int at = 0; at < 4; at++)
        {
            (DeviceStateMachine machine, _, List<string> notices) = Create(Everything, d => d with { GoneAt = at });
            Assert.ThrowsAny<IOException>(() =>
            {
                machine.BeginSave();
                machine.Quiesce();
                machine.StopAndCopy();
                machine.Read(new byte[1]);
            });
            machine.Recover();
            Assert.Equal(at == 0 ? 0 : 1, notices.Count);
        }
    }

    [Fact]
    public void AResetByTheGuestVoidsASaveOnlyIfTheDeviceLeftIt()
    {
        (DeviceStateMachine machine, ScriptedMigration device, List<string> notices) = Create(WithPreCopy);
        machine.BeginSave();
        machine.ResetByGuest(); // and the device stays in pre-copy
        machine.Read(new byte[8]);
        device.Reset(); // this time it goes to RUNNING
        machine.ResetByGuest();
        Assert.Contains("must begin anew", Assert.Throws<IOException>(() => machine.Read(new byte[8])).Message, StringComparison.Ordinal);
        machine.Recover();
        Assert.Equal(DeviceMigrationState.Running, machine.State);
        Assert.Equal(["set pre-copy", "get", "read", "reset", "get"], device.Calls);
        Assert.Empty(notices);
        RunSource(machine); // the next one is whole
    }

    [Fact]
    public void SupportWithoutStopCopyIsNone()
    {
        (DeviceStateMachine machine, _, _) = Create(MigrationSupport.PreCopy);
        Assert.Equal(MigrationSupport.None, machine.Support);
    }

    [Fact]
    public void EveryChangeIsTold()
    {
        (DeviceStateMachine machine, _, _) = Create(Everything);
        List<DeviceMigrationState> seen = [];
        machine.Changed += () => seen.Add(machine.State);
        RunSource(machine);
        Assert.Equal([DeviceMigrationState.PreCopy, DeviceMigrationState.PreCopyP2P, DeviceMigrationState.StopCopy, DeviceMigrationState.Stop], seen);
    }

    private static void RunSource(DeviceStateMachine machine)
    {
        machine.BeginSave();
        machine.Quiesce();
        machine.StopAndCopy();
        machine.EndSave();
    }

    private static void RunDestination(DeviceStateMachine machine)
    {
        machine.BeginLoad();
        machine.Write(new byte[3]);
        machine.EndLoad();
        machine.StartPeers();
        machine.StartAll();
    }

    private sealed record Script
    {
        public HashSet<int> FailingSets { get; init; } = [];

        public DeviceMigrationState? FailureLeaves { get; init; }

        public bool GetFails { get; init; }

        public bool ResetFails { get; init; }

        public int GoneAt { get; init; } = int.MaxValue;
    }

    private static (DeviceStateMachine Machine, ScriptedMigration Device, List<string> Notices) Create(MigrationSupport support, Func<Script, Script>? script = null)
    {
        Script s = (script ?? (x => x))(new Script());
        var device = new ScriptedMigration(support)
        {
            FailingSets = s.FailingSets,
            FailureLeaves = s.FailureLeaves,
            GetFails = s.GetFails,
            ResetFails = s.ResetFails,
            GoneAt = s.GoneAt,
        };
        List<string> notices = [];
        var board = new NoticeBoard();
        board.Posted += notices.Add;
        return (new DeviceStateMachine("dev0", device, support, device.Reset, board), device, notices);
    }
}
