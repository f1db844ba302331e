//! Two layers write side by side into one tensor, so that concatenating their outputs costs no copy; a third reads some of its
//! channels. Tensors are refilled in place.

use warpconv::{Conv2d, Conv2dSpec, Device, Inputs, Layer, MemoryFormat, Padding, Parameter, PlanRequest, Stream, Tensor, Workspace};

fn main() -> warpconv::Result<()> {
    let device = Device::best()?;
    let stream = Stream::default_of(&device);
    let format = MemoryFormat::ChannelsLast;
    let request = PlanRequest::new([1, 4, 8, 8]).format(format);

    // The branches of an Inception block: 1x1 with 6 channels and 3x3 with 2.
    let point = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[6, 4, 1, 1], &[0.25f32; 24])?)?;
    let spec = Conv2dSpec { padding: Padding::all(1), ..Default::default() };
    let square = Conv2d::new(spec, Parameter::new(&[2, 4, 3, 3], &[0.5f32; 72])?)?;
    let (point, square) = (point.plan::<f32>(&device, &request)?, square.plan::<f32>(&device, &request)?);

    let mut x = Tensor::<f32>::zeros(&device, [1, 4, 8, 8], format)?;
    let mut both = Tensor::<f32>::zeros(&device, [1, 8, 8, 8], format)?;

    // The picture of each request is written over that of the one before. A camera gives NHWC: memory order.
    for brightness in [1.0, 2.0] {
        x.write_in_memory_order(&[brightness; 4 * 8 * 8])?;
        let (first, second) = both.split_channels_mut(6)?;
        point.run(&Inputs::new(&x), first, Workspace::none(), &stream)?;
        square.run(&Inputs::new(&x), second, Workspace::none(), &stream)?;

        // Away from the border a 3x3 filter of 0.5 over four channels of `brightness` gives 18 times that.
        let centre = both.channels(5..7)?.to_vec()?;
        assert_eq!((centre[9], centre[64 + 9]), (brightness, 18.0 * brightness));
        println!("brightness {brightness}: channel 5 is {}, channel 6 is {}", centre[9], centre[64 + 9]);
    }

    // A part of the batch or of the channels is an input like any other.
    let gather = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[1, 3, 1, 1], &[1f32; 3])?)?;
    let sum = gather.forward(&Inputs::new(both.channels(5..8)?))?;
    assert_eq!(sum.to_vec()?[9], 2.0 + 36.0 + 36.0);
    Ok(())
}
