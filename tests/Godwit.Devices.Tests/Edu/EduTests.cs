using Godwit.Interop.Linux;
using Godwit.VfioUser;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.Devices.Tests;

/// <summary>The educational device as its documentation says, over a socket.</summary>
public sealed unsafe class EduTests : IDisposable
{
    private readonly MemFd _file = MemFd.Create("edu", ServedEdu.MemorySize);
    private readonly MemoryMapping _memory;

    public EduTests() => _memory = MemoryMapping.MapShared(_file, 0, ServedEdu.MemorySize, writable: true);

    private Span<byte> Memory => new(_memory.Address, ServedEdu.MemorySize);

    public void Dispose()
    {
        _memory.Dispose();
        _file.Dispose();
    }

    [Fact]
    public void It_is_the_documented_device()
    {
        using var edu = new ServedEdu(_file);
        Assert.Equal(0x1234, edu.ReadConfig16(0));
        Assert.Equal(0x11E8, edu.ReadConfig16(2));
        Assert.Equal(0x0010, edu.ReadConfig16(8));
        Assert.Equal(0x00FF, edu.ReadConfig16(10));
        Assert.Equal(0x0100_00EDu, edu.Read(EduRegister.Identification));
        edu.Write(EduRegister.Liveness, 0x1234_5678);
        Assert.Equal(~0x1234_5678u, edu.Read(EduRegister.Liveness));
        Assert.Equal(uint.MaxValue, edu.Read(0x0C)); // no register
        byte[] two = new byte[2];
        edu.Client.ReadRegion(0, 0, two);
        Assert.Equal([0xFF, 0xFF], two);
        Assert.Equal(ulong.MaxValue, edu.ReadWide(EduRegister.Identification)); // 8 bytes only from 0x80 on
    }

    [Theory]
    [InlineData(0, 1)]
    [InlineData(1, 1)]
    [InlineData(5, 120)]
    [InlineData(12, 479001600)]
    [InlineData(13, 1932053504)]
    [InlineData(33, 2147483648)]
    [InlineData(34, 0)]
    [InlineData(uint.MaxValue, 0)]
    public void Factorials_modulo_32_bits(uint n, uint expected)
    {
        using var edu = new ServedEdu(_file);
        edu.UseMsi();
        edu.Write(EduRegister.Status, EduRegister.InterruptAfterFactorial);
        edu.Write(EduRegister.Factorial, n);
        edu.AwaitMsi();
        Assert.Equal(EduRegister.FactorialDone, edu.Read(EduRegister.InterruptStatus));
        Assert.Equal(EduRegister.InterruptAfterFactorial, edu.Read(EduRegister.Status));
        Assert.Equal(expected, edu.Read(EduRegister.Factorial));
    }

    [Fact]
    public void The_pin_is_a_level()
    {
        using var edu = new ServedEdu(_file);
        Assert.Equal(0, edu.ReadConfig16(6) & 8);
        edu.Write(EduRegister.InterruptRaise, 0x2);
        edu.AwaitPin();
        Assert.Equal(8, edu.ReadConfig16(6) & 8); // Interrupt Status
        edu.Write(EduRegister.InterruptRaise, 0x4); // asserted already
        Assert.Equal(6u, edu.Read(EduRegister.InterruptStatus));
        Assert.Equal(0u, edu.DrainPin());
        // Unmasked while asserted: told again, so nothing raised in between is lost.
        edu.Client.MaskIrq(PciIrq.Intx, 0, 1, masked: false);
        edu.AwaitPin();
        edu.Write(EduRegister.InterruptAcknowledge, 0x2);
        edu.Client.MaskIrq(PciIrq.Intx, 0, 1, masked: false);
        edu.AwaitPin();
        edu.Write(EduRegister.InterruptAcknowledge, 0x4);
        edu.Client.MaskIrq(PciIrq.Intx, 0, 1, masked: false);
        Assert.Equal(0u, edu.DrainPin());
        Assert.Equal(0, edu.ReadConfig16(6) & 8);

        edu.WriteConfig16(4, 1 << 10); // Interrupt Disable
        edu.Write(EduRegister.InterruptRaise, 1);
        Assert.Equal(1u, edu.Read(EduRegister.InterruptStatus));
        Assert.Equal(0u, edu.DrainPin());
        edu.WriteConfig16(4, 0);
        edu.AwaitPin();
    }

    [Fact]
    public void MSI_replaces_the_pin()
    {
        using var edu = new ServedEdu(_file);
        edu.UseMsi();
        edu.Write(EduRegister.InterruptRaise, 1);
        edu.AwaitMsi();
        Assert.Equal(0u, edu.DrainPin());
        Assert.Equal(0, edu.ReadConfig16(6) & 8);
    }

    [Fact]
    public void DMA_both_ways_is_logged()
    {
        using var edu = new ServedEdu(_file);
        edu.UseMsi();
        new Random(7).NextBytes(Memory[..4096]);
        byte[] sent = Memory[..4096].ToArray();
        edu.Client.StartDmaLogging(4096, []);
        edu.Transfer(ServedEdu.Base, EduRegister.BufferStart, 4096, EduRegister.DmaInterrupt);
        edu.AwaitMsi();
        Assert.Equal(EduRegister.DmaDone, edu.Read(EduRegister.InterruptStatus));
        edu.Write(EduRegister.InterruptAcknowledge, EduRegister.DmaDone);
        edu.Transfer(EduRegister.BufferStart + 16, ServedEdu.Base + 0x5800, 4080, EduRegister.DmaFromDevice | EduRegister.DmaInterrupt);
        edu.AwaitMsi();
        Assert.Equal(sent[16..], Memory.Slice(0x5800, 4080).ToArray());
        Assert.Equal(EduRegister.DmaFromDevice | EduRegister.DmaInterrupt, edu.ReadWide(EduRegister.DmaCommand));
        ulong[] bitmap = new ulong[4];
        edu.Client.ReportDmaLog(new DmaRange(new DmaAddress(ServedEdu.Base), ServedEdu.MemorySize), 4096, bitmap);
        Assert.Equal([0b110_0000UL, 0UL, 0UL, 0UL], bitmap);
    }

    [Fact]
    public void Addresses_have_28_bits()
    {
        using var edu = new ServedEdu(_file);
        edu.UseMsi();
        edu.Transfer(EduRegister.BufferStart, 0xF000_0000_0000 + ServedEdu.Base, 8, EduRegister.DmaFromDevice | EduRegister.DmaInterrupt);
        Memory[..8].Fill(0xAA);
        edu.AwaitMsi();
        edu.Transfer(EduRegister.BufferStart, 0xF000_0000_0000 + ServedEdu.Base, 8, EduRegister.DmaFromDevice | EduRegister.DmaInterrupt);
        edu.AwaitMsi();
        Assert.Equal(new byte[8], Memory[..8].ToArray());
    }

    [Theory]
    [InlineData(EduRegister.BufferStart - 1, 1)]
    [InlineData(EduRegister.BufferStart, 4097)]
    [InlineData(EduRegister.BufferStart + 4096, 1)]
    [InlineData(EduRegister.BufferStart + 4095, ulong.MaxValue)]
    [InlineData(ulong.MaxValue, 4096)]
    public void A_transfer_outside_of_the_buffer_moves_nothing(ulong source, ulong count)
    {
        using var edu = new ServedEdu(_file);
        edu.UseMsi();
        Memory.Fill(0x55);
        edu.Transfer(source, ServedEdu.Base, count, EduRegister.DmaFromDevice | EduRegister.DmaInterrupt);
        edu.AwaitMsi();
        Assert.Equal(-1, Memory.IndexOfAnyExcept((byte)0x55));
    }

    [Fact]
    public void A_migration_takes_everything_along_even_what_was_not_begun()
    {
        using var source = new ServedEdu(_file);
        using var destination = new ServedEdu(_file);
        source.UseMsi();
        source.Write(EduRegister.Liveness, 77);
        source.Write(EduRegister.InterruptRaise, 0x40);
        new Random(3).NextBytes(Memory[..4096]);
        byte[] sent = Memory[..4096].ToArray();
        source.Transfer(ServedEdu.Base, EduRegister.BufferStart, 4096, EduRegister.DmaInterrupt);
        source.AwaitMsi();
        source.Client.SetMigrationState(PreCopy);
        destination.Client.SetMigrationState(Resuming);
        Move(source, destination);
        source.Client.SetMigrationState(PreCopyP2P);
        // In the P2P states nothing is begun, so both are still to do when the machine moves.
        source.Transfer(EduRegister.BufferStart, ServedEdu.Base + 0x8000, 4096, EduRegister.DmaFromDevice | EduRegister.DmaInterrupt);
        source.Write(EduRegister.Factorial, 6);
        source.Client.SetMigrationState(StopCopy);
        Assert.Equal(EduRegister.Computing, source.Read(EduRegister.Status));
        Move(source, destination);
        Assert.Equal(new byte[4096], Memory.Slice(0x8000, 4096).ToArray());
        destination.Client.SetMigrationState(Stop);
        destination.Client.SetMigrationState(Running);
        destination.AwaitMsi();
        Assert.Equal(sent, Memory.Slice(0x8000, 4096).ToArray());
        Assert.Equal(EduRegister.DmaDone | 0x40, destination.Read(EduRegister.InterruptStatus));
        Assert.Equal(~77u, destination.Read(EduRegister.Liveness));
        Assert.Equal(720u, destination.Read(EduRegister.Factorial));
        Assert.Equal(0u, destination.Read(EduRegister.Status));
    }

    [Fact]
    public void A_migrated_asserted_pin_is_told()
    {
        using var source = new ServedEdu(_file);
        using var destination = new ServedEdu(_file);
        source.Write(EduRegister.InterruptRaise, 1);
        source.AwaitPin();
        source.Client.SetMigrationState(StopCopy);
        destination.Client.SetMigrationState(Resuming);
        Move(source, destination);
        destination.Client.SetMigrationState(Running);
        destination.AwaitPin();
    }

    [Fact]
    public void Damaged_state_is_refused_and_leaves_a_device_that_works()
    {
        using var source = new ServedEdu(_file);
        source.Write(EduRegister.Liveness, 5);
        source.Client.SetMigrationState(StopCopy);
        byte[] state = new byte[1 << 16];
        state = state[..source.Client.ReadMigrationData(state)];
        var random = new Random(11);
        using var destination = new ServedEdu(_file);
        int refused = 0;
        for (int round = 0; round < 300; round++)
        {
            destination.Client.SetMigrationState(Resuming);
            byte[] damaged = (byte[])state.Clone();
            if (round % 3 == 0)
                damaged = damaged[..random.Next(damaged.Length)];
            else if (round % 3 == 1)
                damaged[random.Next(300)] ^= (byte)(1 << random.Next(8));
            else
                damaged = [.. damaged, .. new byte[random.Next(1, 100)]];
            try
            {
                destination.Client.WriteMigrationData(damaged);
                destination.Client.SetMigrationState(Running);
            }
            catch (VfioUserRemoteException e)
            {
                Assert.True(e.Errno is Errno.EINVAL or Errno.E2BIG, e.Message);
                refused++;
            }
            destination.Client.Reset();
            Assert.Equal(Running, destination.Client.GetMigrationState());
        }
        Assert.InRange(refused, 200, 299);
        destination.Client.SetMigrationState(Resuming);
        destination.Client.WriteMigrationData(state);
        destination.Client.SetMigrationState(Running);
        Assert.Equal(~5u, destination.Read(EduRegister.Liveness));
    }

    [Fact]
    public void A_reset_forgets_everything()
    {
        using var edu = new ServedEdu(_file);
        edu.UseMsi();
        edu.Write(EduRegister.Liveness, 1);
        edu.Write(EduRegister.InterruptRaise, 1);
        edu.AwaitMsi();
        edu.Client.Reset();
        Assert.Equal(0u, edu.Read(EduRegister.Liveness));
        Assert.Equal(0u, edu.Read(EduRegister.InterruptStatus));
        Assert.Equal(0x80, edu.ReadConfig16(0x42)); // MSI off
    }

    private static void Move(ServedEdu source, ServedEdu destination)
    {
        byte[] piece = new byte[100];
        for (int count; (count = source.Client.ReadMigrationData(piece)) > 0;)
            destination.Client.WriteMigrationData(piece.AsSpan(0, count));
    }
}
