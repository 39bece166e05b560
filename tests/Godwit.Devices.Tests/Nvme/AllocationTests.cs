using Godwit.VfioUser;

namespace Godwit.Devices.Tests;

public class AllocationTests
{
    /// <summary>Doorbells on the message thread and commands on the worker allocate nothing once warm.</summary>
    [Fact]
    public void DoorbellsAndCommandsAllocateNothing()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue, o => o with { Workers = 1 });
        ulong small = rig.Memory.Allocate(4096);
        ulong large = rig.Memory.Allocate(128 << 10);
        ulong list = rig.Memory.Allocate(4096);
        for (int i = 1; i < 32; i++)
            BitConverter.TryWriteBytes(rig.Memory.Span(list + ((ulong)(i - 1) * 8), 8), large + ((ulong)i * 4096));

        // The marker's pages are touched on the worker's thread, before and after the commands between.
        ulong marker = rig.Memory.Allocate(4096);
        long onWorker = 0;
        rig.Host.BeforeAcquire = address =>
        {
            if (address == marker)
                onWorker = GC.GetAllocatedBytesForCurrentThread();
        };
        byte[] tail = new byte[4];
        long worker = long.MaxValue, messages = long.MaxValue;
        for (int round = 0; round < 50 && (worker > 0 || messages > 0); round++) // the least of the turns: see Allocations
        {
            rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 0, 1, marker));
            long workerBefore = onWorker;
            long thread = 0;
            for (int i = 0; i < 200; i++)
            {
                Sqe command = (i % 5) switch
                {
                    0 => GuestDriver.Io(NvmOpcode.Read, 8, 8, small),
                    1 => GuestDriver.Io(NvmOpcode.Write, 8, 8, small),
                    2 => GuestDriver.Io(NvmOpcode.Read, 8, 256, large, list),
                    3 => GuestDriver.Io(NvmOpcode.Compare, 8, 256, large, list),
                    _ => GuestDriver.Io(NvmOpcode.WriteZeroes, 512, 8),
                };
                rig.Driver.Place(queue, command);
                BitConverter.TryWriteBytes(tail, queue.Tail);
                long before = GC.GetAllocatedBytesForCurrentThread();
                rig.Controller.WriteRegion(PciRegion.Bar0, NvmeRegister.Doorbells + 8, tail);
                thread += GC.GetAllocatedBytesForCurrentThread() - before;
                rig.Driver.Wait(queue);
            }
            rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 0, 1, marker));
            worker = Math.Min(worker, onWorker - workerBefore);
            messages = Math.Min(messages, thread);
        }
        Assert.Equal(0, worker);
        Assert.Equal(0, messages);
    }
}
