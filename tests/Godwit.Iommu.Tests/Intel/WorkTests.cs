using Godwit.Iommu.Intel;
using static Godwit.Iommu.Tests.GuestDriver;
using static Godwit.Iommu.Tests.WorkRig;

namespace Godwit.Iommu.Tests;

/// <summary>
/// What a guest commands costs a vCPU a bounded number of units of work for each register write, whatever it is and for however many devices; the
/// unit does the rest, may rest between any two steps, and tells the guest when it is done and not before.
/// </summary>
public class WorkTests
{
    // What may come on top of the limit: the step that reaches it, a memory transaction, a look at each context, a drain.
    private const long MostPerWrite = IntelIommu.UnitsPerWrite + IntelIommu.UnitsPerStep + ChangePlan.SwitchUnits + (Devices * 16) + 64;

    /// <summary>Commands that reach every device.</summary>
    public enum Command
    {
        QueueOfDomains,
        QueueOfContexts,
        ContextRegister,
        IotlbRegister,
        RootTable,
        TranslationOff,
    }

    public static TheoryData<Command> Commands => [.. Enum.GetValues<Command>()];

    /// <summary>Tables that unfold to as much as a unit will look at, for each of several devices, and a queue full of it.</summary>
    [Theory]
    [MemberData(nameof(Commands))]
    public void OneWriteCostsAVcpuABoundedNumberOfUnits(Command command)
    {
        using var rig = new WorkRig(command);
        ulong table = rig.Aliased(leaves: true);
        for (int device = 0; device < Devices; device++)
            rig.Guest.SetContext(rig.Guest.Sid(device), table, 1);
        long before = rig.Guest.Iommu.Spent;
        rig.Send(command, descriptors: 200);
        Assert.InRange(rig.Guest.Iommu.Spent - before, IntelIommu.UnitsPerWrite, MostPerWrite);
        Assert.False(rig.IsDone(command));
        for (int write = 0; write < 5; write++)
        {
            // Nor does it cost more to write again, the same or something else, while the unit is at it.
            before = rig.Guest.Iommu.Spent;
            rig.Guest.Write32(write % 2 == 0 ? Fectl : Iqt, rig.Guest.Read32(write % 2 == 0 ? Fectl : Iqt));
            Assert.InRange(rig.Guest.Iommu.Spent - before, 0, MostPerWrite);
        }

        // A turn of the unit's own is one step, so that whoever wants the lock has it soon; and all turns together come to an end.
        int turns = 0;
        do
        {
            before = rig.Guest.Iommu.Spent;
            if (!rig.Guest.TakeTurn())
                break;
            Assert.InRange(rig.Guest.Iommu.Spent - before, 0, MostPerWrite - IntelIommu.UnitsPerWrite);
        }
        while (++turns < 20_000);
        Assert.InRange(turns, 1, 19_999);
        Assert.True(rig.IsDone(command) || (rig.Guest.Read32(Fsts) & (1 << 4)) != 0);
        rig.CheckRecords();
    }

    /// <summary>Step by step: it is not reported done before every device has what the tables say, and it is when they have.</summary>
    [Theory]
    [MemberData(nameof(Commands))]
    public void NothingIsReportedBeforeItsEffect(Command command)
    {
        using var rig = new WorkRig(command);
        rig.ChangeTables(command);
        rig.Send(command);
        Assert.False(rig.IsDone(command));
        while (!rig.IsDone(command))
        {
            rig.CheckRecords();
            Assert.True(rig.Guest.TakeTurn(), "the unit has stopped before it was done");
        }

        rig.CheckEffect(command);
        rig.Guest.TakeTurns();
        rig.CheckEffect(command);
    }

    /// <summary>A request to pause that comes in the middle ends the write after the step; a paused unit does nothing; and it goes on where it was.</summary>
    [Theory]
    [MemberData(nameof(Commands))]
    public void ARequestToPauseEndsARunAfterOneStep(Command command)
    {
        using var rig = new WorkRig(command);
        rig.ChangeTables(command);
        long requested = 0;
        rig.OnEvent = () =>
        {
            rig.OnEvent = null;
            requested = rig.Guest.Iommu.Spent;
            rig.Guest.Iommu.RequestPause();
        };
        rig.Send(command);
        Assert.NotEqual(0, requested);
        Assert.InRange(rig.Guest.Iommu.Spent - requested, 0, IntelIommu.UnitsPerStep);
        Assert.False(rig.IsDone(command));
        rig.CheckRecords();

        // Until it is paused the unit goes on by itself, as a vCPU may wait for it; a write makes a step, so that small things are not put off.
        long before = rig.Guest.Iommu.Spent;
        rig.Guest.Write32(Fectl, 0);
        Assert.InRange(rig.Guest.Iommu.Spent - before, 1, 2 * IntelIommu.UnitsPerStep);
        before = rig.Guest.Iommu.Spent;
        Assert.True(rig.Guest.TakeTurn());
        Assert.NotEqual(before, rig.Guest.Iommu.Spent);

        rig.Guest.Iommu.Pause();
        before = rig.Guest.Iommu.Spent;
        int events = rig.Events;
        rig.Guest.TakeTurns();
        rig.Guest.Write32(Fectl, 0);
        Assert.Equal((before, events), (rig.Guest.Iommu.Spent, rig.Events));
        Assert.False(rig.IsDone(command));

        rig.Guest.Iommu.Resume();
        rig.Guest.TakeTurns();
        Assert.True(rig.IsDone(command));
        rig.CheckEffect(command);
    }

    /// <summary>
    /// Paused after more and more of its steps and moved: the other side has every device's mappings when the state is loaded, reports nothing done
    /// that is not, and ends what was begun when it may run.
    /// </summary>
    [Theory]
    [MemberData(nameof(Commands))]
    public void WhatWasBegunIsEndedWhereItIsLoaded(Command command)
    {
        bool ended = false;
        for (int steps = 0; !ended; steps += 11)
        {
            using var rig = new WorkRig(command);
            rig.ChangeTables(command);
            rig.Send(command);
            for (int step = 0; step < steps; step++)
                rig.Guest.TakeTurn();
            rig.Guest.Iommu.Pause();
            ended = rig.IsDone(command);

            using var target = new WorkRig(command, started: false);
            rig.CopyRamTo(target);
            target.Guest.Iommu.LoadState(StateTests.Save(rig.Guest));
            Assert.Equal(rig.IsDone(command), target.IsDone(command));
            target.CheckRecords();
            long before = target.Guest.Iommu.Spent;
            target.Guest.TakeTurns();
            Assert.Equal(before, target.Guest.Iommu.Spent); // not before it may
            target.RenumberABus(); // a bridge whose state is loaded once more, as for a rehearsal
            Assert.Equal((before, rig.Guest.Read64(rig.Guest.StatusWord)), (target.Guest.Iommu.Spent, target.Guest.Read64(target.Guest.StatusWord)));

            target.Guest.Iommu.Resume();
            target.Guest.TakeTurns();
            Assert.True(target.IsDone(command));
            target.CheckEffect(command);
        }
    }

    /// <summary>With a thread of the unit's own, and nobody who touches a register again: a driver that looks at its status word in memory sees it change.</summary>
    [Fact]
    public void TheUnitGoesOnByItself()
    {
        using var rig = new WorkRig(Command.QueueOfDomains, ownThreads: true);
        rig.ChangeTables(Command.QueueOfDomains);
        rig.Send(Command.QueueOfDomains);
        Assert.True(SpinWait.SpinUntil(() => rig.IsDone(Command.QueueOfDomains), TimeSpan.FromMinutes(2)));
        rig.Guest.Iommu.Pause();
        rig.CheckEffect(Command.QueueOfDomains);
    }

    /// <summary>Pauses and resumptions by another thread, at any moment: nothing is lost and nothing is done twice or half.</summary>
    [Fact]
    public void PausesAtAnyMomentLoseNothing()
    {
        using var rig = new WorkRig(Command.QueueOfDomains, ownThreads: true);
        for (int round = 0; round < 6; round++)
        {
            rig.ChangeTables(Command.QueueOfDomains, round % 2 == 0 ? Other : First);
            rig.Send(Command.QueueOfDomains);
            for (int pause = 0; pause < 20; pause++)
            {
                rig.Guest.Iommu.RequestPause();
                rig.Guest.Iommu.Pause();
                int events = rig.Events;
                rig.CheckRecords();
                Assert.Equal(events, rig.Events);
                rig.Guest.Iommu.Resume();
            }

            Assert.True(SpinWait.SpinUntil(() => rig.IsDone(Command.QueueOfDomains), TimeSpan.FromMinutes(2)));
        }
    }

    /// <summary>Commands that come while another is being done wait for it: the queue is not switched off under its descriptor.</summary>
    [Fact]
    public void CommandsAreDoneOneAfterTheOther()
    {
        using var rig = new WorkRig(Command.QueueOfDomains);
        rig.ChangeTables(Command.QueueOfDomains);
        rig.Send(Command.QueueOfDomains);
        rig.Guest.Write32(Gcmd, Te); // QIE off
        Assert.NotEqual(0u, rig.Guest.Read32(Gsts) & Qie);
        while ((rig.Guest.Read32(Gsts) & Qie) != 0)
        {
            rig.CheckRecords();
            Assert.True(rig.Guest.TakeTurn());
        }

        rig.CheckEffect(Command.QueueOfDomains); // it was the first descriptor, which is done
        Assert.Equal(0ul, rig.Guest.ReadRegister64(Iqh));
    }

    /// <summary>A register command that is written again while it is being done is done again, and reported done once, after that.</summary>
    [Fact]
    public void ACommandThatIsWrittenAgainIsDoneAgain()
    {
        using var rig = new WorkRig(Command.IotlbRegister);
        rig.ChangeTables(Command.IotlbRegister);
        rig.Send(Command.IotlbRegister);
        while (rig.Live[0].Count == 0 || rig.Live[0][0] != Other)
            Assert.True(rig.Guest.TakeTurn());
        // The first device is compared already. The guest changes it once more and asks for its domain.
        rig.ChangeTables(Command.IotlbRegister, First);
        rig.Guest.WriteRegister64(IotlbReg, (1UL << 63) | (2UL << 60) | (1UL << 32));
        while (!rig.IsDone(Command.IotlbRegister))
            Assert.True(rig.Guest.TakeTurn());
        Assert.Equal(2ul, (rig.Guest.ReadRegister64(IotlbReg) >> 57) & 3);
        for (int device = 0; device < Devices; device++)
            rig.CheckDevice(device, First);
    }

    /// <summary>A second SRTP is not taken for done because the first one was.</summary>
    [Fact]
    public void ThePointerIsSetWhenItSaysSo()
    {
        using var rig = new WorkRig(Command.RootTable);
        Assert.NotEqual(0u, rig.Guest.Read32(Gsts) & Srtp);
        rig.ChangeTables(Command.RootTable);
        rig.Send(Command.RootTable);
        Assert.Equal(0u, rig.Guest.Read32(Gsts) & Srtp);
        rig.Guest.TakeTurns();
        Assert.NotEqual(0u, rig.Guest.Read32(Gsts) & Srtp);
    }

    /// <summary>Nor are two of them taken for done because the first one is.</summary>
    [Fact]
    public void OfTwoPointersTheSecondIsWaitedFor()
    {
        using var rig = new WorkRig(Command.RootTable);
        rig.ChangeTables(Command.RootTable);
        rig.Send(Command.RootTable);
        while (rig.Live[0].Count == 0 || rig.Live[0][0] != Other)
            Assert.True(rig.Guest.TakeTurn());
        rig.ChangeTables(Command.RootTable, First);
        rig.Send(Command.RootTable);
        while (!rig.IsDone(Command.RootTable))
            Assert.True(rig.Guest.TakeTurn());
        for (int device = 0; device < Devices; device++)
            rig.CheckDevice(device, First);
    }

    /// <summary>
    /// While a second interrupt table is waited for IRTPS reads as clear, by either width, the first one remains in force, and both come along to
    /// another host.
    /// </summary>
    [Fact]
    public void TheInterruptTableIsSetWhenItSaysSo()
    {
        const uint Sirtp = 1u << 24;
        const int Irta = 0xB8;
        using var rig = new WorkRig(Command.QueueOfDomains);
        rig.Guest.WriteRegister64(Irta, Second);
        rig.Guest.Write32(Gcmd, Te | Qie | Sirtp);
        Assert.Equal(Sirtp, rig.Guest.Read32(Gsts) & Sirtp);
        rig.Guest.WriteRegister64(Irta, Second + 0x1000);
        rig.ChangeTables(Command.QueueOfDomains);
        rig.Send(Command.QueueOfDomains);
        rig.Guest.Write32(Gcmd, Te | Qie | Sirtp);
        Check(rig, Second, shown: false);

        rig.Guest.Iommu.Pause();
        using var target = new WorkRig(Command.QueueOfDomains, started: false);
        rig.CopyRamTo(target);
        target.Guest.Iommu.LoadState(StateTests.Save(rig.Guest));
        Check(target, Second, shown: false);
        foreach (WorkRig one in new[] { rig, target })
        {
            one.Guest.Iommu.Resume();
            one.Guest.TakeTurns();
            Check(one, Second + 0x1000, shown: true);
        }

        static void Check(WorkRig rig, ulong table, bool shown)
        {
            Assert.Equal(shown ? Sirtp : 0, rig.Guest.Read32(Gsts) & Sirtp);
            Assert.Equal(shown ? Sirtp : 0, (uint)(rig.Guest.ReadRegister64(Gcmd) >> 32) & Sirtp);
            Assert.Equal((table, true), (rig.Interrupts.State.Table.Value, rig.Interrupts.State.Entries != 0));
        }
    }

    /// <summary>IQH does not move, nor does QIES fall, before the host has unmapped what the descriptors took away.</summary>
    [Fact]
    public void TheHeadMovesAfterTheHostHasUnmapped()
    {
        using var rig = new WorkRig(Command.QueueOfDomains);
        int batches = 0;
        rig.OnBatchEnd = () =>
        {
            batches++;
            Assert.Equal(0ul, rig.Guest.ReadRegister64(Iqh));
            Assert.NotEqual(0u, rig.Guest.Read32(Gsts) & Qie);
        };
        // Three pages of one table, one after the other, and nothing to wait for.
        for (ulong page = 0; page < 3; page++)
        {
            rig.Guest.Unmap(rig.Table, page << 12, level: 1);
            rig.Guest.Queued(IotlbPages(1, page << 12, 0));
        }

        rig.Guest.Write32(Iqt, 3u << 4);
        Assert.Equal(Devices * 2, batches); // they share one for each device, which has a range below the interrupt range and one above
        Assert.Equal(3ul << 4, rig.Guest.ReadRegister64(Iqh));

        // Off while one is being done: it is done first.
        batches = 0;
        rig.OnBatchEnd = () =>
        {
            batches++;
            Assert.Equal(3ul << 4, rig.Guest.ReadRegister64(Iqh));
            Assert.NotEqual(0u, rig.Guest.Read32(Gsts) & Qie);
        };
        rig.ChangeTables(Command.QueueOfDomains);
        rig.Guest.Queued(IotlbDomain(1));
        rig.Guest.Write32(Iqt, 4u << 4);
        Assert.Equal(3ul << 4, rig.Guest.ReadRegister64(Iqh));
        while (rig.Live.Any(device => device.Values.Count(target => target is >= Other and < Other + 0x20_0000) < Pages - 8000))
            Assert.True(rig.Guest.TakeTurn());
        rig.Guest.Write32(Gcmd, Te); // less than a write's units are left
        Assert.True(batches > 0);
        Assert.Equal(0u, rig.Guest.Read32(Gsts) & Qie);
        Assert.Equal(0ul, rig.Guest.ReadRegister64(Iqh));
    }

    /// <summary>What goes wrong in the unit's own turn is told at once, to the machine and to whoever drives the unit, and is no exception of nobody's.</summary>
    [Fact]
    public void AFailureInTheUnitsTurnIsTold()
    {
        using var rig = new WorkRig(Command.QueueOfDomains);
        rig.ChangeTables(Command.QueueOfDomains);
        rig.Send(Command.QueueOfDomains);
        List<Exception> told = [];
        rig.Guest.Iommu.Failed += told.Add;
        rig.OnEvent = () => throw new InvalidOperationException("a listener's fault");
        rig.Guest.TakeTurns();
        rig.OnEvent = null;
        Assert.Equal("a listener's fault", Assert.Single(told).Message);
        Assert.Same(told[0], rig.Guest.Iommu.Failure);
        Assert.Equal("a listener's fault", Assert.Throws<InvalidOperationException>(() => rig.Guest.Read32(Gsts)).Message);
        Assert.Equal("a listener's fault", Assert.Throws<InvalidOperationException>(() => rig.Guest.Write32(Fectl, 0)).Message);
        Assert.Equal("a listener's fault", Assert.Throws<InvalidOperationException>(() => StateTests.Save(rig.Guest)).Message);
        rig.Guest.Iommu.Pause();
        rig.Guest.Iommu.Resume();
        Assert.False(rig.Guest.TakeTurn());
        Assert.Equal("a listener's fault", Assert.Throws<InvalidOperationException>(rig.Guest.Iommu.Reset).Message);
        Assert.Single(told);
    }

    /// <summary>
    /// What goes wrong in a vCPU's register write is the unit's failure too: it is thrown, told once when the lock is free, and nothing is done or told to
    /// the guest after it.
    /// </summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void AFailureInARegisterWriteIsTheUnits(bool atBatchEnd)
    {
        using var rig = new WorkRig(Command.QueueOfDomains);
        List<Exception> told = [];
        rig.Guest.Iommu.Failed += failure =>
        {
            Assert.True(rig.Guest.Iommu.TryPause(TimeSpan.Zero)); // the lock is free
            rig.Guest.Iommu.Resume();
            told.Add(failure);
        };
        ulong head = rig.Guest.ReadRegister64(Iqh);
        rig.ChangeTables(Command.QueueOfDomains);
        FailOnce();
        Assert.Equal("a listener's fault", Assert.Throws<InvalidOperationException>(() => rig.Send(Command.QueueOfDomains)).Message);
        Assert.Equal("a listener's fault", Assert.Single(told).Message);
        Assert.Same(told[0], rig.Guest.Iommu.Failure);
        Assert.Equal("a listener's fault", Assert.Throws<InvalidOperationException>(() => rig.Guest.Write32(Fectl, 0)).Message);
        Assert.Equal("a listener's fault", Assert.Throws<InvalidOperationException>(() => rig.Guest.Read32(Gsts)).Message);
        Assert.False(rig.Guest.TakeTurn());
        Assert.Single(told);

        void FailOnce()
        {
            if (atBatchEnd)
                rig.OnBatchEnd = Throw;
            else
                rig.OnEvent = Throw;
        }

        void Throw()
        {
            rig.OnBatchEnd = rig.OnEvent = null;
            throw new InvalidOperationException("a listener's fault");
        }
    }

    /// <summary>Nor does it go on when a reset or a load has stopped half way.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void AFailureInAResetOrALoadIsTheUnits(bool load)
    {
        using var rig = new WorkRig(Command.QueueOfDomains);
        byte[] state = StateTests.Save(rig.Guest);
        List<Exception> told = [];
        rig.Guest.Iommu.Failed += told.Add;
        rig.ChangeTables(Command.QueueOfDomains);
        rig.OnEvent = rig.OnBatchEnd = () => throw new InvalidOperationException("a listener's fault");
        Assert.Throws<InvalidOperationException>(() =>
        {
            if (load)
                rig.Guest.Iommu.LoadState(state);
            else
                rig.Guest.Iommu.Reset();
        });
        rig.OnEvent = rig.OnBatchEnd = null;
        Assert.Equal("a listener's fault", Assert.Single(told).Message);
        Assert.Same(told[0], rig.Guest.Iommu.Failure);
        Assert.Throws<InvalidOperationException>(() => rig.Guest.Write32(Fectl, 0));
        Assert.Single(told);
    }

    /// <summary>A thread that ends when it has nothing to do, and is there again.</summary>
    [Fact]
    public void TheUnitsThreadComesAndGoes()
    {
        var thread = new TurnThread("turns", TimeSpan.FromMilliseconds(1));
        for (int round = 0; round < 20; round++)
        {
            Thread? used = null;
            int turns = 0;
            void Turn()
            {
                used ??= Thread.CurrentThread;
                if (Interlocked.Increment(ref turns) < 5)
                    thread.Post(Turn); // as the unit does, in its turn
            }

            thread.Post(Turn);
            Assert.True(SpinWait.SpinUntil(() => Volatile.Read(ref turns) == 5, TimeSpan.FromMinutes(2)));
            if (round % 2 == 0)
                Assert.True(used!.Join(TimeSpan.FromMinutes(2)));
        }
    }

    [Fact]
    public void AStateWithACommandThatCannotBeIsRefused()
    {
        using var rig = new WorkRig(Command.TranslationOff);
        byte[] state = StateTests.Save(rig.Guest);
        state[^8] = 1; // a command, and nothing says that there is one
        Assert.Contains("unfinished command", Assert.Throws<InvalidDataException>(() => rig.Guest.Iommu.LoadState(state)).Message, StringComparison.Ordinal);
        state[^1] = 1;
        Assert.Contains("unfinished command", Assert.Throws<InvalidDataException>(() => rig.Guest.Iommu.LoadState(state)).Message, StringComparison.Ordinal);
    }
}
