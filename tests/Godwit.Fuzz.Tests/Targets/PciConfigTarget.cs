using System.Buffers;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Fuzz.Tests;

/// <summary>A guest that writes configuration space at random, and a peer whose saved state is random.</summary>
public sealed class PciConfigTarget : IFuzzTarget
{
    private const ulong Ecam = 0xB000_0000;

    /// <inheritdoc/>
    public static string Name => "pci-config";

    /// <inheritdoc/>
    public static IEnumerable<byte[]> Seeds()
    {
        yield return new InputBuilder()
            .Op(0, (1 << 15) | 0x18, 0x0002_0100)            // bridge 00:01.0: bus numbers
            .Op(0, (1 << 20) | 0x10, 0xFFFF_FFFF)            // 01:00.0: size a BAR
            .Op(0, (1 << 20) | 0x10, 0xC000_0000)
            .Op(0, (1 << 20) | 0x04, 0x6)
            .Op(1, (1 << 20) | 0x10)
            .Op(2, 0xC000_0000)
            .Op(3, 0, 0x1234_5678)
            .Build();
    }

    /// <inheritdoc/>
    public static void Run(ReadOnlySpan<byte> input)
    {
        var topology = new MemoryTopology();
        var host = new PciHostBridge(topology, new Gpa(Ecam), 4);
        var bridge = new PciBridge("port", conventionalSecondary: true);
        var function = new Endpoint();
        host.RootBus.Attach(bridge, new DevFn(1, 0));
        bridge.Secondary.Attach(function, new DevFn(0, 0));
        var reader = new InputReader(input);
        for (int steps = 0; steps < 200 && !reader.AtEnd; steps++)
        {
            byte op = reader.Byte();
            ulong operand = reader.UInt64();
            switch (op % 4)
            {
                case 0:
                    topology.System.WriteUInt32(new BusAddress(Ecam + (operand & 0x3F_FFFC)), (uint)reader.UInt64(), TransactionAttributes.Vcpu);
                    break;
                case 1:
                    topology.System.ReadUInt32(new BusAddress(Ecam + (operand & 0x3F_FFFC)), out _, TransactionAttributes.Vcpu);
                    break;
                case 2:
                    topology.System.ReadUInt64(new BusAddress(operand), out _, TransactionAttributes.Vcpu);
                    break;
                default:
                    LoadMangled(function, operand, (byte)reader.UInt64());
                    break;
            }

            _ = function.RequesterId;
            _ = host.Describe();
        }
    }

    private static void LoadMangled(Endpoint function, ulong at, byte value)
    {
        var writer = new ArrayBufferWriter<byte>();
        function.SaveState(writer);
        byte[] state = writer.WrittenSpan.ToArray();
        state[at % (ulong)state.Length] ^= value;
        try
        {
            function.LoadState(state.AsSpan(0, (int)(state.Length - (int)(at >> 60))));
        }
        catch (PciStateException)
        {
            // Refused by name; the function goes on as it was.
        }
    }

    private sealed class Endpoint : PciFunction
    {
        public Endpoint() : base("endpoint")
        {
            Config.Define(0, 4, 0x1111_1AF4);
            SetBar(0, BarKind.Memory32, prefetchable: false, new MmioRegion("bar", 0x1000, new Zeros()));
        }
    }

    private sealed class Zeros : IMmioHandler
    {
        public ulong Read(ulong offset, int size, in TransactionAttributes attributes) => 0;

        public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
        {
        }
    }
}
