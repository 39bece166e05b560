namespace Godwit.Devices.Tests;

public class QueueTests
{
    [Theory]
    [InlineData(2, 2)]
    [InlineData(3, 5)]
    [InlineData(5, 3)]
    [InlineData(64, 2)]
    [InlineData(1024, 1024)]
    public void QueuesWrapManyTimesWithTheRightPhase(int entries, int completionEntries)
    {
        using var rig = new NvmeRig();
        rig.Driver.Enable();
        GuestQueue queue = rig.Driver.CreateQueue(1, entries, completionEntries);
        int total = 4 * Math.Max(entries, completionEntries) + 3;
        int submitted = 0, completed = 0;
        var outstanding = new HashSet<ushort>();
        while (completed < total)
        {
            bool placed = false;
            while (submitted < total && !queue.Full)
            {
                Assert.True(outstanding.Add(rig.Driver.Place(queue, GuestDriver.Io(NvmOpcode.Flush, 0, 1) with { Nsid = 7 })));
                submitted++;
                placed = true;
            }
            if (placed)
                rig.Driver.RingSubmissions(queue);
            Cqe completion = rig.Driver.Wait(queue);
            Assert.Equal(NvmeStatus.InvalidNamespace, completion.Status);
            Assert.True(outstanding.Remove(completion.Id));
            completed++;
        }
        Assert.False(rig.Driver.TryReap(queue, out _));
    }

    [Fact]
    public void AFullCompletionQueueStopsTheSubmissionQueueUntilTheHostConsumes()
    {
        using var rig = new NvmeRig(o => o with { Workers = 1 });
        rig.Driver.Enable();
        GuestQueue queue = rig.Driver.CreateQueue(1, 32, completionEntries: 4);
        GuestQueue other = rig.Driver.CreateQueue(2, 32);
        for (int i = 0; i < 20; i++)
            rig.Driver.Place(queue, GuestDriver.Io(NvmOpcode.Flush, 0, 1) with { Nsid = 7 });
        rig.Driver.RingSubmissions(queue);
        // One worker goes round: when the other queue has been served after the first, that one is stuck.
        for (int i = 0; i < 3; i++)
            rig.Driver.Execute(other, GuestDriver.Io(NvmOpcode.Flush, 0, 1) with { Nsid = 7 });
        var seen = new List<Cqe>();
        while (rig.Driver.TryReap(queue, out Cqe completion))
            seen.Add(completion);
        Assert.Equal(3, seen.Count); // one slot stays empty
        Assert.Equal(3, seen[^1].SubmissionHead);
        rig.Driver.RingCompletions(queue);
        while (seen.Count < 20)
            seen.Add(rig.Driver.Wait(queue));
        Assert.Equal(20, seen.Select(c => c.Id).Distinct().Count());
    }

    [Fact]
    public void SubmissionQueuesMayShareACompletionQueue()
    {
        using var rig = new NvmeRig(o => o with { Workers = 4 });
        rig.Driver.Enable();
        GuestQueue first = rig.Driver.CreateQueue(1, 16, completionEntries: 5);
        GuestQueue[] queues = [first, .. Enumerable.Range(2, 5).Select(id => rig.Driver.CreateQueue(id, 16, shared: first))];
        foreach (GuestQueue queue in queues)
        {
            for (int i = 0; i < 15; i++)
                rig.Driver.Place(queue, GuestDriver.Io(NvmOpcode.Flush, 0, 1) with { Nsid = 7 });
            rig.Driver.RingSubmissions(queue);
        }
        var seen = new HashSet<(int, ushort)>();
        for (int i = 0; i < 15 * queues.Length; i++)
        {
            Cqe completion = rig.Driver.Wait(first);
            Assert.True(seen.Add((completion.SubmissionQueue, completion.Id)));
        }
        Assert.False(rig.Driver.TryReap(first, out _));
        Assert.Equal(NvmeStatus.InvalidQueueDeletion, rig.Driver.Execute(new Sqe { Opcode = (byte)AdminOpcode.DeleteCompletionQueue, D10 = 1 }).Status);
    }

    [Fact]
    public void DeletingABusyQueueNeverCompletesACommandTwice()
    {
        using var rig = new NvmeRig(o => o with { Workers = 3 });
        rig.Driver.Enable(entries: 16);
        for (int round = 0; round < 200; round++)
        {
            GuestQueue queue = rig.Driver.CreateQueue(1, 64);
            rig.Memory.Span(queue.Completions, 64 * 16).Clear();
            for (int i = 0; i < 63; i++)
                rig.Driver.Place(queue, GuestDriver.Io(NvmOpcode.Read, 0, 8, GuestMemory.Base + (15 << 20)), (ushort)i);
            rig.Driver.RingSubmissions(queue);
            rig.Driver.Succeed(new Sqe { Opcode = (byte)AdminOpcode.DeleteSubmissionQueue, D10 = 1 });
            int done = 0;
            for (; rig.Driver.TryReap(queue, out Cqe completion); done++)
                Assert.Equal(done, completion.Id);
            // Quiet now: what comes later would be from a deleted queue.
            rig.Driver.Succeed(new Sqe { Opcode = (byte)AdminOpcode.DeleteCompletionQueue, D10 = 1 });
            Assert.False(rig.Driver.TryReap(queue, out _));
        }
    }

    [Fact]
    public void WrongDoorbellsAreIgnoredAndTold()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        int sq = NvmeRegister.Doorbells + 8, cq = sq + 4;
        rig.Driver.Write32(sq, 64);         // beyond the queue
        rig.Driver.Write32(sq, uint.MaxValue);
        rig.Driver.Write32(cq, 1);          // consumes what was not posted
        rig.Driver.Write32(cq, 64);
        rig.Driver.Write32(NvmeRegister.Doorbells + (9 * 8), 0);
        rig.Driver.Write32(NvmeRegister.Doorbells + 0xFFC, 0);
        Assert.Equal(6, rig.Log.Count(l => l.Contains("doorbell", StringComparison.Ordinal)));
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Flush, 0, 1)).Status);
        Assert.Equal(1u, rig.Driver.Status);
    }

    [Fact]
    public void TheTailMayNotPassTheHead()
    {
        var completion = new CompletionQueue(1, 0x1000, 16, interrupts: true, vector: 1, queueSlots: 2);
        var queue = new SubmissionQueue(1, 0x2000, 8, 0, completion);
        Assert.True(queue.MoveTail(7));
        Assert.False(queue.MoveTail(0)); // would look empty
        Assert.False(queue.MoveTail(3));
        Assert.True(queue.MoveTail(7));
        queue.Advance();
        queue.Advance();
        Assert.True(queue.MoveTail(1));
        Assert.False(queue.MoveTail(2));
        Assert.False(queue.MoveTail(8));
    }

    [Fact]
    public void UnalignedRegisterWritesAreDropped()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        rig.Driver.Registers.Write(0, NvmeRegister.Configuration, [0]);
        rig.Driver.Registers.Write(0, NvmeRegister.Configuration + 2, [0, 0]);
        rig.Driver.Registers.Write(0, NvmeRegister.Doorbells + 9, [1, 0, 0, 0]);
        Assert.Equal(1u, rig.Driver.Status);
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Flush, 0, 1)).Status);
    }

    [Fact]
    public void EachQueueSignalsItsVectorAndPollingQueuesNone()
    {
        using var rig = new NvmeRig();
        rig.Driver.Enable();
        GuestQueue queue = rig.Driver.CreateQueue(1, vector: 5);
        rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Flush, 0, 1));
        Assert.Equal(1, rig.Host.Triggers(Godwit.VfioUser.PciIrq.Msix, 5));
        Assert.Equal(0, rig.Host.Triggers(Godwit.VfioUser.PciIrq.Msix, 1));
        Assert.True(rig.Host.Triggers(Godwit.VfioUser.PciIrq.Intx, 0) > 0);

        // MSI-X enabled: the pin is silent.
        rig.Driver.Write32(PciIdentity.Msix, 0x8000_0000, region: 7);
        long before = rig.Host.Triggers(Godwit.VfioUser.PciIrq.Intx, 0);
        rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Flush, 0, 1));
        Assert.Equal(before, rig.Host.Triggers(Godwit.VfioUser.PciIrq.Intx, 0));
        Assert.Equal(2, rig.Host.Triggers(Godwit.VfioUser.PciIrq.Msix, 5));
    }

    [Fact]
    public void ThePinFollowsMaskAndCommandRegister()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        rig.Driver.Write32(NvmeRegister.InterruptMaskSet, 1 << 1);
        Assert.Equal(2u, rig.Driver.Read32(NvmeRegister.InterruptMaskClear));
        long before = rig.Host.Triggers(Godwit.VfioUser.PciIrq.Intx, 0);
        long seen = rig.Host.TriggerCount;
        rig.Driver.Submit(queue, GuestDriver.Io(NvmOpcode.Flush, 0, 1));
        rig.Host.WaitForTrigger(seen); // MSI-X has no mask here
        Assert.Equal(before, rig.Host.Triggers(Godwit.VfioUser.PciIrq.Intx, 0));
        Assert.Equal(0u, rig.Driver.Read32(0x04, region: 7) & 0x0008_0000);
        rig.Driver.Write32(NvmeRegister.InterruptMaskClear, 1 << 1);
        Assert.Equal(before + 1, rig.Host.Triggers(Godwit.VfioUser.PciIrq.Intx, 0));
        Assert.Equal(0x0008_0000u, rig.Driver.Read32(0x04, region: 7) & 0x0008_0000);
        rig.Driver.Wait(queue);
        Assert.Equal(0u, rig.Driver.Read32(0x04, region: 7) & 0x0008_0000);
        rig.Driver.Write32(0x04, 0x400, region: 7); // interrupt disable
        before = rig.Host.Triggers(Godwit.VfioUser.PciIrq.Intx, 0);
        rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Flush, 0, 1));
        Assert.Equal(before, rig.Host.Triggers(Godwit.VfioUser.PciIrq.Intx, 0));
    }
}
