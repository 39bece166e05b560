using System.Buffers.Binary;
using Godwit.VfioUser;

namespace Godwit.Examples;

/// <summary>
/// Its driver gives it an address, a length and a place for the result; it sums the bytes up, writes the sum and raises MSI-X vector 0.
/// It can be migrated at any time, and every write it does is logged for the machine that migrates.
/// </summary>
/// <remarks>Registers, 64 bits each: 0 source, 8 length, 16 where the sum goes, 24 write 1 to start; reads 0 idle, 1 busy, 2 done, 3 failed.</remarks>
internal sealed class ChecksumDevice() : PciDevice(new PciDefinition
{
    VendorId = 0x1D0D,
    DeviceId = 0x0001,
    Bars = [new PciBar(0, 4096)],
    MsixVectors = 1,
})
{
    private const int Status = 3;
    private readonly ulong[] _registers = new ulong[4];

    protected override void ReadBar(int bar, ulong offset, Span<byte> destination)
    {
        if (destination.Length == 8 && offset / 8 < 4 && offset % 8 == 0)
            BinaryPrimitives.WriteUInt64LittleEndian(destination, _registers[offset / 8]);
    }

    protected override void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> data)
    {
        if (data.Length != 8 || offset / 8 >= 4 || offset % 8 != 0 || _registers[Status] == 1)
            return; // no such register, or busy
        _registers[offset / 8] = BinaryPrimitives.ReadUInt64LittleEndian(data);
        if (_registers[Status] == 1)
            RequestWork();
    }

    protected override void Work()
    {
        ulong source, length, target;
        lock (Gate)
        {
            if (_registers[Status] != 1)
                return;
            (source, length, target) = (_registers[0], _registers[1], _registers[2]);
        }
        ulong? sum = length <= 1 << 20 ? Sum(source, (int)length) : null;
        Span<byte> result = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(result, sum ?? 0);
        bool done = sum is not null && WriteMemory(new DmaAddress(target), result);
        lock (Gate)
        {
            _registers[Status] = done ? 2u : 3u;
            RaiseInterrupt(vector: 0);
        }
    }

    protected override void OnReset() => Array.Clear(_registers);

    protected override void Save(DeviceStateWriter state) => Array.ForEach(_registers, state.UInt64);

    protected override void Load(DeviceStateReader state)
    {
        for (int i = 0; i < _registers.Length; i++)
            _registers[i] = state.UInt64();
    }

    private ulong? Sum(ulong source, int length)
    {
        byte[] data = new byte[length];
        if (!ReadMemory(new DmaAddress(source), data))
            return null;
        ulong sum = 0;
        foreach (byte each in data)
            sum += each;
        return sum;
    }
}
