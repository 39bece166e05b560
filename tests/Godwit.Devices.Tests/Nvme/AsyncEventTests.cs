namespace Godwit.Devices.Tests;

public class AsyncEventTests
{
    private static readonly Sqe Request = new() { Opcode = (byte)AdminOpcode.AsyncEventRequest };

    [Fact]
    public void RequestsAreHeldUntilADoorbellIsWrong()
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        ushort id = rig.Driver.Submit(rig.Driver.Admin, Request);
        rig.Driver.Write32(NvmeRegister.Doorbells + (5 * 8), 1); // no such queue
        Cqe completion = rig.Driver.Wait(rig.Driver.Admin);
        Assert.Equal(id, completion.Id);
        Assert.Equal(NvmeStatus.Success, completion.Status);
        Assert.Equal(0x01_00_00u, completion.Result);

        // The type is masked until its log is read.
        ushort second = rig.Driver.Submit(rig.Driver.Admin, Request);
        rig.Driver.Write32(NvmeRegister.Doorbells + 8, 64); // beyond queue 1
        ulong page = rig.Memory.Allocate(4096);
        Sqe log = AdminCommandTests.Log(NvmeLogPage.ErrorInformation, 64, page);
        rig.Driver.Succeed(log with { D10 = log.D10 | (1u << 15) }); // retained
        Assert.False(rig.Driver.TryReap(rig.Driver.Admin, out _));
        ushort read = rig.Driver.Submit(rig.Driver.Admin, log);
        var seen = new Dictionary<ushort, Cqe>();
        while (seen.Count < 2)
        {
            Cqe next = rig.Driver.Wait(rig.Driver.Admin);
            seen.Add(next.Id, next);
        }
        Assert.Equal(NvmeStatus.Success, seen[read].Status);
        Assert.Equal(0x01_01_00u, seen[second].Result);
    }

    [Fact]
    public void EventsWaitForARequest()
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        rig.Driver.Write32(NvmeRegister.Doorbells + (100 * 8) + 4, 0);
        Cqe completion = rig.Driver.Execute(Request);
        Assert.Equal(0x01_00_00u, completion.Result);
    }

    [Fact]
    public void OnlySoManyAreHeldAndIdsAreNotTakenTwice()
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        for (ushort i = 0; i < 3; i++)
            rig.Driver.Submit(rig.Driver.Admin, Request, (ushort)(1000 + i));
        rig.Driver.Submit(rig.Driver.Admin, Request, 1001);
        Assert.Equal(NvmeStatus.CommandIdConflict, rig.Driver.Wait(rig.Driver.Admin).Status);
        rig.Driver.Submit(rig.Driver.Admin, Request, 1003);
        Assert.Equal(NvmeStatus.AsyncEventLimitExceeded, rig.Driver.Execute(Request).Status);
    }

    [Fact]
    public void HeldRequestsCanBeAbortedAndOtherCommandsCannot()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        ushort id = rig.Driver.Submit(rig.Driver.Admin, Request);
        ushort abort = rig.Driver.Submit(rig.Driver.Admin, Abort(0, id));
        Cqe first = rig.Driver.Wait(rig.Driver.Admin);
        Cqe second = rig.Driver.Wait(rig.Driver.Admin);
        Assert.Equal((id, NvmeStatus.AbortRequested), (first.Id, first.Status));
        Assert.Equal((abort, NvmeStatus.Success, 0u), (second.Id, second.Status, second.Result));

        Assert.Equal(1u, rig.Driver.Succeed(Abort(0, id)));
        Assert.Equal(1u, rig.Driver.Succeed(Abort(queue.Id, 7)));
        Assert.Equal(1u, rig.Driver.Succeed(Abort(77, 7)));

        static Sqe Abort(int queue, ushort id) => new() { Opcode = (byte)AdminOpcode.Abort, D10 = (uint)queue | ((uint)id << 16) };
    }

    [Fact]
    public void HeldRequestsKeepNoRoomInTheCompletionQueue()
    {
        using var rig = new NvmeRig();
        rig.Driver.Enable(entries: 4);
        for (int i = 0; i < 20; i++)
        {
            ushort id = rig.Driver.Submit(rig.Driver.Admin, Request);
            rig.Driver.Submit(rig.Driver.Admin, new Sqe { Opcode = (byte)AdminOpcode.Abort, D10 = (uint)id << 16 });
            Assert.Equal(NvmeStatus.AbortRequested, rig.Driver.Wait(rig.Driver.Admin).Status);
            Assert.Equal(0u, rig.Driver.Wait(rig.Driver.Admin).Result);
        }
    }

    [Fact]
    public void ResetForgetsRequestsAndEvents()
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        rig.Driver.Write32(NvmeRegister.Doorbells + (100 * 8), 0);
        rig.Driver.Write32(NvmeRegister.Configuration, 0);
        rig.Driver.Enable();
        rig.Driver.Submit(rig.Driver.Admin, Request);
        ulong page = rig.Memory.Allocate(4096);
        rig.Driver.Succeed(GuestDriver.IdentifyCommand(1, 0, page)); // in order: the request was taken before
        Assert.False(rig.Driver.TryReap(rig.Driver.Admin, out _));
    }
}
