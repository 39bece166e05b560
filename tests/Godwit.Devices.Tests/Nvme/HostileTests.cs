using System.Buffers.Binary;
using Godwit.Interop.Linux;
using Godwit.VfioUser;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.Devices.Tests;

public class HostileTests
{
    /// <summary>Random registers, doorbells, queue memory, transitions, resets and reconnections. Nothing hangs, and afterwards it works.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void GarbageFromTheGuestIsBounded(int variant)
    {
        int seed = (Environment.TickCount * 31) + variant;
        var random = new Random(seed);
        using var image = new TempImage();
        using var memory = new GuestMemory(4 << 20);
        using var rig = new NvmeRig(o => o with { Workers = 2, QueueSize = 64 }, image, memory);
        DeviceMigrationState state = Running;
        for (int round = 0; round < 4000; round++)
        {
            switch (random.Next(24))
            {
                case 0:
                    rig.Driver.Write64(NvmeRegister.AdminSubmissionBase, Address(random));
                    rig.Driver.Write64(NvmeRegister.AdminCompletionBase, Address(random));
                    rig.Driver.Write32(NvmeRegister.AdminQueueAttributes, (uint)(random.Next(64) | (random.Next(64) << 16)));
                    break;
                case 1:
                    Write(rig, NvmeRegister.Configuration, 1 | (6u << 16) | (4u << 20) | ((uint)random.Next(6) << 7) | (random.Next(8) == 0 ? 1u << 14 : 0));
                    break;
                case 2:
                    Write(rig, NvmeRegister.Configuration, (uint)random.Next() & ~(random.Next(2) == 0 ? 1u : 0));
                    break;
                case 3 or 4:
                    byte[] bytes = new byte[random.Next(1, 64)];
                    random.NextBytes(bytes);
                    rig.Controller.WriteRegion(PciRegion.Bar0, (ulong)random.Next(PciIdentity.Bar0Size - bytes.Length), bytes);
                    break;
                case 5:
                    byte[] config = new byte[random.Next(1, 8)];
                    random.NextBytes(config);
                    rig.Controller.WriteRegion(PciRegion.Config, (ulong)random.Next(PciIdentity.ConfigurationSize - config.Length), config);
                    break;
                case 6:
                    rig.Host.Holes.Clear();
                    if (random.Next(2) == 0)
                        rig.Host.Holes.Add((GuestMemory.Base + (ulong)random.Next(4 << 20), (ulong)random.Next(1 << 16)));
                    break;
                case 7 when random.Next(10) == 0:
                    rig.Controller.Reset();
                    state = Running;
                    break;
                case 8 when random.Next(10) == 0:
                    rig.Controller.OnDisconnected();
                    rig.Controller.OnConnected(rig.Host);
                    break;
                case 9 or 10:
                    DeviceMigrationState next = (DeviceMigrationState)random.Next(1, 8);
                    if (rig.Controller.Transition(state, next) == Errno.None)
                        state = next;
                    break;
                case 11:
                    byte[] data = new byte[random.Next(1, 5000)];
                    random.NextBytes(data);
                    rig.Controller.WriteMigrationData(data);
                    rig.Controller.ReadMigrationData(data);
                    break;
                case 12:
                    rig.Controller.ReadRegion(PciRegion.Bar0, (ulong)random.Next(PciIdentity.Bar0Size - 64), new byte[random.Next(1, 64)]);
                    break;
                case < 18:
                    // Commands that are half sensible anywhere in memory.
                    Sqe command = new()
                    {
                        Opcode = (byte)random.Next(14),
                        Nsid = (uint)random.Next(3),
                        Prp1 = Address(random) + (ulong)(random.Next(4) == 0 ? random.Next(4096) : 0),
                        Prp2 = Address(random),
                        D10 = random.Next(2) == 0 ? (uint)random.Next(2048) : (uint)random.Next(10) | ((uint)random.Next(64) << 16),
                        D11 = (uint)random.Next(4) | ((uint)random.Next(10) << 16),
                        D12 = (uint)random.Next(2048),
                    };
                    command.Encode(memory.Span(GuestMemory.Base + ((ulong)random.Next((4 << 20) / 64) * 64), 64), (ushort)random.Next());
                    break;
                default:
                    rig.Driver.Write32(NvmeRegister.Doorbells + (random.Next(20) * 4), (uint)random.Next(70));
                    break;
            }
        }

        // Whatever state it is in: a reset, and it is a controller again.
        rig.Host.Holes.Clear();
        rig.Controller.Reset();
        using var clean = new GuestMemory(4 << 20);
        var host = new FakeHost(clean);
        rig.Controller.OnDisconnected();
        rig.Controller.OnConnected(host);
        var driver = new GuestDriver(clean, new DirectRegisters(rig.Controller), () => host.TriggerCount, host.WaitForTrigger);
        driver.Enable();
        GuestQueue queue = driver.CreateQueue(1);
        Assert.True(driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 0, 8, clean.Allocate(4096))).Status == NvmeStatus.Success, $"seed {seed}");
        rig.Controller.OnDisconnected();
        Assert.Empty(host.Violations);
    }

    [Fact]
    public void RegionsRefuseWhatIsOutOfBounds()
    {
        using var rig = new NvmeRig();
        byte[] eight = new byte[8];
        foreach ((int region, ulong offset) in ((int, ulong)[])[(0, 0x3FFC), (0, 0x4000), (0, ulong.MaxValue), (7, 4092), (7, 4096), (7, ulong.MaxValue - 3), (1, 0), (8, 0), (-1, 0)])
        {
            Assert.Equal(Errno.EINVAL, rig.Controller.ReadRegion(region, offset, eight));
            Assert.Equal(Errno.EINVAL, rig.Controller.WriteRegion(region, offset, eight));
        }
    }

    [Fact]
    public void AQueueThatLiesInItsOwnDataIsBounded()
    {
        // The completion queue over the submission queue: each completion overwrites a command to come.
        using var rig = new NvmeRig();
        rig.Driver.Enable();
        ulong page = rig.Memory.Allocate(4096);
        rig.Driver.Succeed(new Sqe { Opcode = (byte)AdminOpcode.CreateCompletionQueue, Prp1 = page, D10 = 1 | (63u << 16), D11 = 3 | (1u << 16) });
        rig.Driver.Succeed(new Sqe { Opcode = (byte)AdminOpcode.CreateSubmissionQueue, Prp1 = page, D10 = 1 | (63u << 16), D11 = 1 | (1u << 16) });
        long seen = rig.Host.TriggerCount;
        rig.Driver.Write32(NvmeRegister.Doorbells + 8, 63);
        rig.Host.WaitForTrigger(seen);
        rig.Go(Running, RunningP2P, Stop);
        Assert.Equal(1u, rig.Driver.Status);
    }

    [Fact]
    public void LogLinesAreThinnedOut()
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        for (int i = 0; i < 10_000; i++)
            rig.Driver.Write32(NvmeRegister.Doorbells + (99 * 8), 0);
        Assert.InRange(rig.Log.Count(l => l.Contains("doorbell", StringComparison.Ordinal)), 9, 30);
        Assert.Contains("number 8192 of its kind", rig.AllLog, StringComparison.Ordinal);
    }

    private static void Write(NvmeRig rig, int offset, uint value)
    {
        byte[] bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        rig.Controller.WriteRegion(PciRegion.Bar0, (ulong)offset, bytes);
    }

    private static ulong Address(Random random) => random.Next(12) switch
    {
        0 => 0,
        1 => ulong.MaxValue & ~0xFFFUL,
        2 => (ulong)random.NextInt64() & ~0xFFFUL,
        3 => GuestMemory.Base + (4 << 20) - 4096,
        _ => GuestMemory.Base + ((ulong)random.Next(1024) << 12),
    };
}
