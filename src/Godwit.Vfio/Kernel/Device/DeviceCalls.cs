using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.Vfio;

/// <summary>
/// Calls on a device's descriptor, with what they fail with told the way the room expects it: refused, or gone. A device that goes is reported
/// once to <paramref name="lost"/>.
/// </summary>
internal sealed class DeviceCalls(IKernelCalls calls, FileDescriptor file, Action<string> lost)
{
    /// <summary>The seam.</summary>
    public IKernelCalls Kernel { get; } = calls;

    /// <summary>The device.</summary>
    public FileDescriptor File { get; } = file;

    /// <summary>A call with a structure; what it fails with is thrown.</summary>
    public int Ioctl<T>(string name, uint request, ref T argument) where T : unmanaged
    {
        Throw(name, Try(request, ref argument, out int result));
        return result;
    }

    /// <summary>A call with a structure and what follows it; what it fails with is thrown.</summary>
    public int Ioctl(string name, uint request, Span<byte> argument)
    {
        Throw(name, Try(request, argument, out int result));
        return result;
    }

    /// <summary>A call with a structure; the caller looks at the error.</summary>
    public Errno Try<T>(uint request, ref T argument, out int result) where T : unmanaged =>
        Try(request, MemoryMarshal.AsBytes(new Span<T>(ref argument)), out result);

    /// <summary>A call with a structure and what follows it; the caller looks at the error.</summary>
    public Errno Try(uint request, Span<byte> argument, out int result)
    {
        try
        {
            return Kernel.Ioctl(File, request, argument, out result);
        }
        catch (ObjectDisposedException e)
        {
            throw Closed(e);
        }
    }

    /// <summary>A call without an argument; what it fails with is thrown.</summary>
    public void Ioctl(string name, uint request)
    {
        Errno errno;
        try
        {
            errno = Kernel.Ioctl(File, request, 0, out _);
        }
        catch (ObjectDisposedException e)
        {
            throw Closed(e);
        }

        Throw(name, errno);
    }

    /// <summary>VFIO_DEVICE_FEATURE with <paramref name="payload"/>, which it reads or writes.</summary>
    public Errno TryFeature<T>(uint feature, ref T payload) where T : unmanaged
    {
        Span<byte> buffer = stackalloc byte[Marshal.SizeOf<vfio_device_feature>() + Marshal.SizeOf<T>()];
        MemoryMarshal.Write(buffer, new vfio_device_feature { argsz = (uint)buffer.Length, flags = feature });
        MemoryMarshal.Write(buffer[Marshal.SizeOf<vfio_device_feature>()..], payload);
        Errno errno = Try(vfio.VFIO_DEVICE_FEATURE, buffer, out _);
        if (errno == Errno.None)
            payload = MemoryMarshal.Read<T>(buffer[Marshal.SizeOf<vfio_device_feature>()..]);
        return errno;
    }

    /// <summary>VFIO_DEVICE_FEATURE without data: a probe, or a feature that has none.</summary>
    public Errno TryFeature(uint feature)
    {
        var header = new vfio_device_feature { argsz = (uint)Marshal.SizeOf<vfio_device_feature>(), flags = feature };
        return Try(vfio.VFIO_DEVICE_FEATURE, ref header, out _);
    }

    /// <summary>Throws what <paramref name="errno"/> means; returns when it is none.</summary>
    public void Throw(string name, Errno errno)
    {
        if (errno == Errno.None)
            return;
        if (errno != Errno.ENODEV)
            throw new DeviceRefusedException(name, errno);
        string reason = $"{name}: the kernel says that it is there no more ({errno})";
        lost(reason);
        throw new DeviceLostException(reason);
    }

    /// <summary>The device was closed under a caller.</summary>
    public static DeviceLostException Closed(ObjectDisposedException e) => new("the device has been closed", e);
}
