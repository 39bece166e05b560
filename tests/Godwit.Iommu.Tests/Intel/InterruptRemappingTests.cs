using Godwit.Iommu.Intel;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

/// <summary>Interrupt remapping as the guest sets it up: table in RAM, IRTA, SIRTP, IRE, interrupt-entry invalidations, fault records.</summary>
public sealed class InterruptRemappingTests : IDisposable, IInterruptSink
{
    private const int Irta = 0xB8, Records = 0x220;
    private const uint Ire = 1u << 25, Sirtp = 1u << 24, Cfi = 1u << 23;
    private const ushort Requester = 0x0218;
    private const ulong Window = 0xFEE0_0000;

    private readonly GuestDriver _guest = new(new IntelIommuOptions { InterruptRemapping = true, ExtendedInterruptMode = true });
    private readonly List<InterruptMessage> _delivered = [];
    private readonly ulong _table;

    public InterruptRemappingTests() => _table = _guest.AllocateTable();

    public void Dispose() => _guest.Dispose();

    void IInterruptSink.Deliver(in InterruptMessage message) => _delivered.Add(message);

    [Fact]
    public void Until_IRE_is_set_messages_pass_as_they_are()
    {
        Send(Window | (5 << 12), 0x8141);
        Assert.Equal(new InterruptMessage(5, false, false, false, 1, 0x41, true), Assert.Single(_delivered));
    }

    [Fact]
    public void An_x2APIC_destination_has_32_bits()
    {
        Enable(extended: true);
        SetEntry(7, Entry(vector: 0x51) | (300UL << 32));
        Send(Remappable(7), 0);
        Assert.Equal(new InterruptMessage(300, true, false, false, 0, 0x51, false), Assert.Single(_delivered));
        Assert.Equal(0, Fault());
    }

    [Fact]
    public void An_xAPIC_destination_has_8_bits_and_all_fields_arrive()
    {
        Enable(extended: false);
        SetEntry(9, Entry(vector: 0x52) | (0x21UL << 40) | (1 << 2) | (1 << 3) | (1 << 4) | (1 << 5) | (0xF << 8));
        Send(Remappable(9), 0);
        Assert.Equal(new InterruptMessage(0x21, false, true, true, 1, 0x52, true), Assert.Single(_delivered));
    }

    [Theory]
    [InlineData(0x40, false, 0xFFFFu, 0x40)] // without SHV the data is ignored
    [InlineData(0x40, true, 5u, 0x45)]
    [InlineData(0x00, true, 0xFFu, 0xFF)]
    public void Handle_and_subhandle_make_the_index(int handle, bool subhandle, uint data, int index)
    {
        Enable(extended: true);
        SetEntry(index, Entry(vector: 0x60));
        Send(Remappable(handle, subhandle), data);
        Assert.Equal(0x60, Assert.Single(_delivered).Vector);
    }

    [Theory]
    [InlineData(0, 0x1234, 3, true)]       // SVT 0: nothing is checked
    [InlineData(1, 0x0218, 0, true)]
    [InlineData(1, 0x0219, 0, false)]
    [InlineData(1, 0x021C, 0, false)]
    [InlineData(1, 0x021C, 1, true)]       // SQ 1 ignores bit 2
    [InlineData(1, 0x021A, 1, false)]
    [InlineData(1, 0x021E, 2, true)]       // SQ 2 ignores bits 2:1
    [InlineData(1, 0x0219, 2, false)]
    [InlineData(1, 0x021F, 3, true)]       // SQ 3 ignores bits 2:0
    [InlineData(1, 0x0220, 3, false)]
    [InlineData(2, 0x0202, 0, true)]       // SVT 2: a range of buses
    [InlineData(2, 0x0104, 0, true)]
    [InlineData(2, 0x0304, 0, false)]
    [InlineData(2, 0x0001, 0, false)]
    public void The_source_is_verified(int validation, int source, int qualifier, bool passes)
    {
        Enable(extended: true);
        SetEntry(3, Entry(vector: 0x70), (uint)source | ((ulong)qualifier << 16) | ((ulong)validation << 18));
        Send(Remappable(3), 0);
        Assert.Equal(passes ? 1 : 0, _delivered.Count);
        Assert.Equal(passes ? 0 : 0x26, Fault());
    }

    [Theory]
    [InlineData(0UL, 0UL, 0x22)]                         // not present
    [InlineData(1UL | (1 << 12), 0UL, 0x24)]
    [InlineData(1UL | (1 << 13), 0UL, 0x24)]
    [InlineData(1UL | (1 << 14), 0UL, 0x24)]
    [InlineData(1UL | (1 << 24), 0UL, 0x24)]
    [InlineData(1UL | (1UL << 31), 0UL, 0x24)]
    [InlineData(1UL | (1 << 15), 0UL, 0x24)]             // posted format
    [InlineData(1UL | (3 << 5), 0UL, 0x24)]              // delivery modes that do not exist
    [InlineData(1UL | (6 << 5), 0UL, 0x24)]
    [InlineData(1UL, 3UL << 18, 0x24)]                   // SVT 3
    [InlineData(1UL | (1 << 12), 1UL << 18, 0x26)]       // reserved bits, and not of this source, which is verified first
    [InlineData(1UL, 1UL << 20, 0x24)]
    [InlineData(1UL, 1UL << 63, 0x24)]
    [InlineData(1UL | (1UL << 32), 0UL, 0x24)]           // outside an xAPIC destination
    [InlineData(1UL | (1UL << 39), 0UL, 0x24)]
    [InlineData(1UL | (1UL << 48), 0UL, 0x24)]
    [InlineData(1UL | (1UL << 63), 0UL, 0x24)]
    public void An_entry_that_cannot_be_used_blocks_and_is_recorded_unless_FPD(ulong low, ulong high, int reason)
    {
        Enable(extended: false);
        SetEntry(11, low | (0x41 << 16), high);
        Send(Remappable(11), 0);
        Assert.Empty(_delivered);
        Assert.Equal(reason, Fault());
        Assert.Equal(11UL << 48, _guest.ReadRegister64(Records));
        Assert.Equal(Requester, (ushort)_guest.ReadRegister64(Records + 8));

        _guest.WriteRegister64(Records + 8, 1UL << 63);
        SetEntry(12, low | (0x41 << 16) | 2, high);
        Send(Remappable(12), 0);
        Assert.Empty(_delivered);
        Assert.Equal(0, Fault(1));
    }

    [Fact]
    public void A_request_with_reserved_bits_is_0x20_and_an_index_beyond_the_table_0x21()
    {
        Enable(extended: true);
        Send(Remappable(1, subhandle: true), 0x1_0000);
        Assert.Equal(0x20, Fault());
        Send(Remappable(256), 0);
        Assert.Equal(0x21, Fault(1));
        Send(Remappable(0xFFFF, subhandle: true), 0xFFFF); // 17 bits
        Assert.Equal(0x21, Fault(2));
        Assert.Empty(_delivered);
    }

    [Fact]
    public void What_is_no_interrupt_is_0x29_while_anything_is_remapped()
    {
        _guest.Iommu.RejectInterruptRangeRequest(Requester, write: true);
        Assert.Equal(0, Fault());
        Enable(extended: true);
        _guest.Iommu.RejectInterruptRangeRequest(Requester, write: false);
        Assert.Equal(0x29, Fault());
        Assert.Equal(0UL, _guest.ReadRegister64(Records));
        Assert.Equal((1UL << 63) | (1UL << 62) | (0x29UL << 32) | Requester, _guest.ReadRegister64(Records + 8));
    }

    [Fact]
    public void A_table_outside_RAM_is_0x23()
    {
        Enable(extended: true, table: 0xFED9_0000);
        Send(Remappable(1), 0);
        Assert.Equal(0x23, Fault());
        Assert.Empty(_delivered);
    }

    [Theory]
    [InlineData(false, false, false)]
    [InlineData(false, true, true)]
    [InlineData(true, false, false)]
    [InlineData(true, true, false)] // EIME blocks them whatever CFI says
    public void Compatibility_format_passes_by_CFI_and_without_EIME_only(bool extended, bool let, bool passes)
    {
        Enable(extended);
        if (let)
            _guest.Command(Cfi);
        Send(Window | (2 << 12), 0x41);
        Assert.Equal(passes ? 1 : 0, _delivered.Count);
        Assert.Equal(passes ? 0 : 0x25, Fault());
    }

    [Fact]
    public void An_entry_is_read_once_and_again_after_an_invalidation_of_its_index_only()
    {
        Enable(extended: true);
        SetEntry(16, Entry(vector: 0x80));
        SetEntry(20, Entry(vector: 0x90));
        Send(Remappable(16), 0);
        Send(Remappable(20), 0);
        Assert.Equal(2, _guest.Iommu.Interrupts!.Fetches);

        SetEntry(16, Entry(vector: 0x81));
        SetEntry(20, Entry(vector: 0x91));
        Send(Remappable(16), 0);
        Assert.Equal(0x80, _delivered[^1].Vector);
        _guest.Invalidate(InvalidateIndex(16, mask: 2)); // 16 to 19
        Send(Remappable(16), 0);
        Assert.Equal(0x81, _delivered[^1].Vector);
        Send(Remappable(20), 0);
        Assert.Equal(0x90, _delivered[^1].Vector);
        Assert.Equal(3, _guest.Iommu.Interrupts.Fetches);

        _guest.Invalidate((4UL, 0UL)); // global
        Send(Remappable(20), 0);
        Assert.Equal(0x91, _delivered[^1].Vector);
    }

    [Fact]
    public void A_moved_vector_never_arrives_at_its_old_place_after_the_invalidation()
    {
        // A device sends without a pause while the guest moves the vector: what is sent after the wait has the new one.
        Enable(extended: true);
        SetEntry(1, Entry(vector: 0x20));
        int floor = 0x20;
        int early = 0;
        bool stop = false;
        var sink = new CheckingSink(message =>
        {
            // Read before the message is judged: it may only be newer than what the guest has been told is over.
            if (message.Vector < Volatile.Read(ref floor))
                Interlocked.Increment(ref early);
        });
        var device = new Thread(() =>
        {
            while (!Volatile.Read(ref stop))
                _guest.Iommu.Interrupts!.Deliver(Requester, Remappable(1), 0, sink);
        });
        device.Start();
        for (int vector = 0x21; vector <= 0xF0; vector++)
        {
            SetEntry(1, Entry((byte)vector));
            _guest.Invalidate(InvalidateIndex(1, mask: 0));
            Volatile.Write(ref floor, vector);
        }

        Volatile.Write(ref stop, true);
        device.Join();
        Assert.Equal(0, early);
    }

    [Fact]
    public void The_setup_comes_with_the_state()
    {
        Enable(extended: true);
        SetEntry(4, Entry(vector: 0x44) | (400UL << 32));
        var state = new System.Buffers.ArrayBufferWriter<byte>();
        _guest.Iommu.SaveState(state);

        using var other = new GuestDriver(_guest.Iommu.Options);
        byte[] entry = new byte[16];
        _guest.Block.Read(_table + (4 * 16), entry);
        other.Block.Write(_table + (4 * 16), entry, Memory.DirtySource.Vcpu);
        other.Iommu.LoadState(state.WrittenSpan);
        other.Iommu.Interrupts!.Deliver(Requester, Remappable(4), 0, this);
        Assert.Equal(400u, Assert.Single(_delivered).Destination);
    }

    [Fact]
    public void Garbage_is_delivered_or_recorded_never_thrown() => Seeded.Run(4, random =>
    {
        using var guest = new GuestDriver(_guest.Iommu.Options);
        ulong table = guest.AllocateTable();
        guest.EnableQueue();
        int delivered = 0;
        var sink = new CheckingSink(_ => delivered++);
        for (int step = 0; step < 2_000; step++)
        {
            switch (random.Next(6))
            {
                case 0:
                    guest.WriteRegister64(Irta, (random.Next(4) == 0 ? (ulong)random.NextInt64() : table) | (uint)random.Next(0x1000));
                    guest.Write32(Gcmd, (guest.Read32(Gsts) & (Qie | Ire)) | Sirtp);
                    break;
                case 1:
                    guest.Write32(Gcmd, Qie | (random.Next(8) == 0 ? 0 : Ire) | (random.Next(2) == 0 ? 0 : Cfi));
                    break;
                case 2:
                    guest.Invalidate(InvalidateIndex(random.Next(1 << 16), random.Next(32)));
                    break;
                case 3:
                    guest.Write64(table + ((ulong)random.Next(512) * 8), (ulong)random.NextInt64() & ~(random.Next(2) == 0 ? 0 : 0xFF00F000UL) | 1);
                    break;
                default:
                    guest.Iommu.Interrupts!.Deliver((ushort)random.Next(1 << 16), Window | (uint)random.Next(1 << 20), (uint)random.NextInt64(), sink);
                    break;
            }
        }

        Assert.True(delivered > 0);
    });

    /// <summary>
    /// The guest writes an entry in halves, without a word to the unit, while a device sends: each message is by one half that was there and
    /// one that was there, never by anything that a second look would have put together.
    /// </summary>
    [Fact]
    public void An_entry_that_changes_while_it_is_read_is_judged_by_one_copy() => Seeded.Run(2, random =>
    {
        using var guest = new GuestDriver(_guest.Iommu.Options);
        ulong table = guest.AllocateTable();
        guest.WriteRegister64(Irta, table | (1u << 11) | 7);
        guest.Command(Sirtp);
        guest.EnableQueue();
        guest.Command(Ire);
        ulong[] lows = [Entry(vector: 0x41) | (1UL << 32), Entry(vector: 0x82) | (0xABCD_EF01UL << 32), 0, Entry(vector: 0x33) | (1 << 15)];
        InterruptMessage[] possible = [new(1, true, false, false, 0, 0x41, false), new(0xABCD_EF01, true, false, false, 0, 0x82, false)];
        bool stop = false;
        var writer = new Thread(() =>
        {
            for (int i = 0; !Volatile.Read(ref stop); i++)
            {
                guest.Write64(table + (3 * 16), lows[i % lows.Length]);
                guest.Write64(table + (3 * 16) + 8, i % 3 == 0 ? Requester | (1UL << 18) : 0);
            }
        });
        writer.Start();
        int wrong = 0, right = 0;
        var sink = new CheckingSink(message => _ = possible.Contains(message) ? right++ : wrong++);
        for (int i = 0; i < 3000; i++)
        {
            guest.Iommu.Interrupts!.Deliver(Requester, Remappable(3), 0, sink);
            if (random.Next(4) == 0)
                guest.Invalidate(InvalidateIndex(3, 0));
        }

        Volatile.Write(ref stop, true);
        writer.Join();
        Assert.Equal(0, wrong);
        guest.Write64(table + (3 * 16), lows[0]);
        guest.Write64(table + (3 * 16) + 8, 0);
        guest.Invalidate(InvalidateIndex(3, 0));
        guest.Iommu.Interrupts!.Deliver(Requester, Remappable(3), 0, sink);
        Assert.True(right > 0);
    });

    /// <summary>An invalidation costs the entries that it names and no other, whatever their number (VT-d 6.5.2.7: 2^IM entries, aligned).</summary>
    [Theory]
    [InlineData(0, 1)]
    [InlineData(3, 8)]
    [InlineData(6, 64)]
    public void Only_what_was_invalidated_is_looked_up_again(int mask, int expected)
    {
        Enable(extended: true);
        for (int index = 0; index < 256; index++)
            SetEntry(index, Entry(vector: 0x40) | ((ulong)index << 32));
        SendAll();
        long first = _guest.Iommu.Interrupts!.Fetches;
        SendAll();
        Assert.Equal(first, _guest.Iommu.Interrupts!.Fetches);
        _guest.Invalidate(InvalidateIndex(0x55, mask));
        SendAll();
        Assert.Equal(first + expected, _guest.Iommu.Interrupts!.Fetches);
        Assert.Equal(3 * 256, _delivered.Count);

        void SendAll()
        {
            for (int index = 0; index < 256; index++)
                Send(Remappable(index), 0);
        }
    }

    private static ulong Remappable(int handle, bool subhandle = false) =>
        Window | (((uint)handle & 0x7FFF) << 5) | ((uint)handle >> 15 << 2) | (1 << 4) | (subhandle ? 1u << 3 : 0);

    private static ulong Entry(byte vector) => 1 | ((ulong)vector << 16);

    private static (ulong, ulong) InvalidateIndex(int index, int mask) => (4u | (1u << 4) | ((ulong)mask << 27) | ((ulong)index << 32), 0);

    private void Enable(bool extended, ulong? table = null)
    {
        _guest.WriteRegister64(Irta, (table ?? _table) | (extended ? 1u << 11 : 0) | 7); // 256 entries
        _guest.Command(Sirtp);
        _guest.EnableQueue();
        _guest.Command(Ire);
    }

    private void SetEntry(int index, ulong low, ulong high = 0)
    {
        _guest.Write64(_table + ((ulong)index * 16) + 8, high);
        _guest.Write64(_table + ((ulong)index * 16), low);
    }

    private void Send(ulong address, uint data) => _guest.Iommu.Interrupts!.Deliver(Requester, address, data, this);

    /// <summary>The reason in a fault record, 0 when it is free.</summary>
    private int Fault(int record = 0)
    {
        ulong high = _guest.ReadRegister64(Records + (record * 16) + 8);
        return high >> 63 == 0 ? 0 : (int)(high >> 32) & 0xFF;
    }

    private sealed class CheckingSink(Action<InterruptMessage> check) : IInterruptSink
    {
        public void Deliver(in InterruptMessage message) => check(message);
    }
}
