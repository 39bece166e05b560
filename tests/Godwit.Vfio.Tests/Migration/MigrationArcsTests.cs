using Godwit.VfioUser;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.Vfio.Tests;

public sealed class MigrationArcsTests
{
    private const MigrationSupport StopCopyOnly = MigrationSupport.StopCopy;
    private const MigrationSupport WithPreCopy = MigrationSupport.StopCopy | MigrationSupport.PreCopy;
    private const MigrationSupport WithP2P = MigrationSupport.StopCopy | MigrationSupport.P2P;
    private const MigrationSupport Everything = WithPreCopy | MigrationSupport.P2P;

    public static TheoryData<MigrationSupport, DeviceMigrationState, DeviceMigrationState, DeviceMigrationState[]?> Ways => new()
    {
        { StopCopyOnly, Running, StopCopy, [Stop, StopCopy] },
        { StopCopyOnly, Running, Resuming, [Stop, Resuming] },
        { StopCopyOnly, Running, PreCopy, null },
        { StopCopyOnly, Running, RunningP2P, null },
        { WithPreCopy, Running, PreCopy, [PreCopy] },
        { WithPreCopy, PreCopy, StopCopy, [StopCopy] },
        { WithPreCopy, Running, StopCopy, [Stop, StopCopy] },
        { WithPreCopy, PreCopy, Stop, [Running, Stop] },
        { WithPreCopy, Stop, PreCopy, [Running, PreCopy] },
        { WithPreCopy, Resuming, PreCopy, [Stop, Running, PreCopy] },
        { WithPreCopy, StopCopy, Running, [Stop, Running] },
        { WithPreCopy, StopCopy, PreCopy, null },
        { WithP2P, Running, Stop, [RunningP2P, Stop] },
        { WithP2P, Running, StopCopy, [RunningP2P, Stop, StopCopy] },
        { WithP2P, Resuming, Running, [Stop, RunningP2P, Running] },
        { Everything, PreCopy, StopCopy, [PreCopyP2P, StopCopy] },
        { Everything, PreCopy, Stop, [Running, RunningP2P, Stop] },
        { Everything, PreCopyP2P, Stop, [RunningP2P, Stop] },
        { Everything, PreCopyP2P, Running, [RunningP2P, Running] },
        { Everything, Running, PreCopyP2P, [RunningP2P, PreCopyP2P] },
        { Everything, StopCopy, PreCopyP2P, null },
        { Everything, Error, Running, null },
        { Everything, Running, Error, null },
        { Everything, Running, Running, [] },
        { MigrationSupport.None, Running, Stop, null },
    };

    [Theory]
    [MemberData(nameof(Ways))]
    public void GoesByTheFewestArcs(MigrationSupport support, DeviceMigrationState from, DeviceMigrationState to, DeviceMigrationState[]? expected) =>
        Assert.Equal(expected, MigrationArcs.Way(support, from, to));

    [Fact]
    public void EveryWayConsistsOfArcsAndPassesNoStateThatTransfersDataOutsideASave()
    {
        foreach (MigrationSupport support in (MigrationSupport[])[StopCopyOnly, WithPreCopy, WithP2P, Everything])
        {
            MigrationArc[] arcs = [.. MigrationArcs.Of(support)];
            Assert.Equal(arcs.Length, arcs.Distinct().Count());
            foreach (DeviceMigrationState from in Enum.GetValues<DeviceMigrationState>())
            {
                foreach (DeviceMigrationState to in Enum.GetValues<DeviceMigrationState>())
                {
                    if (MigrationArcs.Way(support, from, to) is not { } way)
                        continue;
                    DeviceMigrationState at = from;
                    foreach (DeviceMigrationState next in way)
                    {
                        Assert.Contains(new MigrationArc(at, next), arcs);
                        at = next;
                    }

                    Assert.Equal(to, at);
                    Assert.DoesNotContain(way.SkipLast(1), s => s is StopCopy or Resuming);
                    if (from is not (PreCopy or PreCopyP2P))
                        Assert.DoesNotContain(way.SkipLast(1), s => s is PreCopy or PreCopyP2P);
                }
            }
        }
    }
}
