using Godwit.VfioUser;

namespace Godwit.Devices.Tests;

/// <summary>A guest that is quicker than the controller's own bookkeeping.</summary>
public sealed class CompletionQueueTests
{
    [Fact]
    public void The_head_may_pass_an_entry_as_soon_as_the_guest_can_see_it()
    {
        var queue = new CompletionQueue(id: 1, address: 0x1000, size: 2, interrupts: true, vector: 1, queueSlots: 4);
        bool taken = false;
        var host = new EagerHost(() => taken = queue.MoveHead(1));
        Assert.True(queue.TryReserve());
        Assert.True(queue.Post(host, 0, 0, 1, 7, 0));
        Assert.True(taken);
        Assert.Equal(1u, queue.Head);
        Assert.True(queue.TryReserve(), "the queue is empty again");
    }

    [Fact]
    public void The_head_may_not_claim_entries_that_were_never_shown()
    {
        var queue = new CompletionQueue(id: 1, address: 0x1000, size: 4, interrupts: true, vector: 1, queueSlots: 4);
        Assert.False(queue.MoveHead(1));
        Assert.True(queue.TryReserve());
        Assert.False(queue.MoveHead(1), "a reserved slot holds nothing yet");
        Assert.True(queue.Post(new EagerHost(() => { }), 0, 0, 1, 7, 0));
        Assert.False(queue.MoveHead(2));
        Assert.True(queue.MoveHead(1));
    }

    /// <summary>Calls back at the moment when the entry is in guest memory.</summary>
    private sealed class EagerHost(Action written) : IDeviceHost
    {
        public bool Read(DmaAddress address, Span<byte> destination) => false;

        public bool Write(DmaAddress address, ReadOnlySpan<byte> data)
        {
            written();
            return true;
        }

        public bool TryAcquire(DmaAddress address, int length, bool forWrite, out DmaPiece piece)
        {
            piece = default;
            return false;
        }

        public void SetPin(bool asserted)
        {
        }

        public void Trigger(int index, int vector)
        {
        }
    }
}
